"""End by the signal that was asked for."""

import os


def handler(event, context):
    if event == "behave":
        return "ok"
    os.kill(os.getpid(), event)
