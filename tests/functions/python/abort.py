"""Give up."""

import os


def handler(event, context):
    if event == "behave":
        return "ok"
    os.abort()
