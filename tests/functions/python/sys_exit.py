"""Leave politely."""

import sys


def handler(event, context):
    if event == "behave":
        return "ok"
    sys.exit(event)
