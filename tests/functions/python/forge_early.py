"""Leave an answer for the next request."""

import os
import threading
import time


def handler(event, context):
    if event == "behave":
        return "ok"
    def later():
        time.sleep(0.05)
        os.write(3, b"\x00\x00\x00\x08O\"forged\"")

    threading.Thread(target=later, daemon=True).start()
    return "armed"
