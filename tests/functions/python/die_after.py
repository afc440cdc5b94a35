"""Answer, and end a moment later."""

import os
import threading
import time


def handler(event, context):
    if event == "behave":
        return "ok"
    def die():
        time.sleep(0.05)
        os._exit(1)

    threading.Thread(target=die, daemon=True).start()
    return "dying"
