"""Fork twice, leave the session, and go on in the grandchild."""

import os
import time


def handler(event, context):
    if event == "behave":
        return "ok"
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                time.sleep(1)
        os._exit(0)
    while True:
        time.sleep(1)
