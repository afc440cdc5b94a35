# /// script
# [tool.sandlot]
# visibility = "public"
# timeout = "60s"
# ///
"""Run on in two processes named like the event.

`ps` on the machine shows the name (prctl(2), PR_SET_NAME).
"""

import ctypes
import os
import time


def handler(event, context):
    ctypes.CDLL(None).prctl(15, event.encode(), 0, 0, 0)
    os.fork()
    time.sleep(60)
