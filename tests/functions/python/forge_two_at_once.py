"""Answer by hand twice in one write."""

import os
import time


def handler(event, context):
    if event == "behave":
        return "ok"
    os.write(3, b"\x00\x00\x00\x01O1\x00\x00\x00\x01O2")
    time.sleep(3600)
