"""Answer a byte at a time, slower than anybody waits."""

import os
import time


def handler(event, context):
    if event == "behave":
        return "ok"
    for byte in b"\x00\x00\x10\x00O" + b" " * 4096:
        os.write(3, bytes([byte]))
        time.sleep(0.05)
