"""Ignore every signal there is, and loop."""

import signal


def handler(event, context):
    if event == "behave":
        return "ok"
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    while True:
        pass
