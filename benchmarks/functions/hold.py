# /// script
# [tool.sandlot]
# visibility = "public"
# timeout = "30s"
# ///
"""Occupy a slot until a time that all calls share, in seconds since the epoch.

A queue can be filled meanwhile.
"""

import time


def handler(event, context):
    time.sleep(max(0.0, event["until_s"] - time.time()))
