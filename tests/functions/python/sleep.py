"""Sleep for ever."""

import time


def handler(event, context):
    if event == "behave":
        return "ok"
    time.sleep(3600)
