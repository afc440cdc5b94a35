"""Answer by hand with what is not JSON."""

import os
import time


def handler(event, context):
    if event == "behave":
        return "ok"
    os.write(3, b"\x00\x00\x00\x03O{]}")
    time.sleep(3600)
