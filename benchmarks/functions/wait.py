# /// script
# [tool.sandlot]
# visibility = "public"
# timeout = "30s"
# ///
"""Wait for as many seconds as the event says, and leave the CPU to the load generator."""

import time


def handler(event, context):
    time.sleep(event["s"])
    return event["s"]
