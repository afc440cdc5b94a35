"""Begin an answer and never end it."""

import os
import time


def handler(event, context):
    if event == "behave":
        return "ok"
    os.write(3, b"\x00\x00\x10\x00O\"abc")
    time.sleep(3600)
