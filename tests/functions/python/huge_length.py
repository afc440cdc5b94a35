"""Announce four gigabytes."""

import os
import time


def handler(event, context):
    if event == "behave":
        return "ok"
    os.write(3, b"\xff\xff\xff\xffO")
    time.sleep(3600)
