"""Answer by hand, then return another answer."""

import os


def handler(event, context):
    if event == "behave":
        return "ok"
    os.write(3, b"\x00\x00\x00\x08O\"forged\"")
    return "real"
