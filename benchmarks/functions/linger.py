# /// script
# [tool.sandlot]
# visibility = "public"
# timeout = "60s"
# ///
"""Take the name that the event says, where `ps` of the machine shows it (prctl(2), PR_SET_NAME), and stay, in two processes."""

import ctypes
import os
import time


def handler(event, context):
    ctypes.CDLL(None).prctl(15, event.encode(), 0, 0, 0)
    os.fork()
    time.sleep(60)
