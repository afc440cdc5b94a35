"""Leave without a word."""

import os


def handler(event, context):
    if event == "behave":
        return "ok"
    os._exit(event)
