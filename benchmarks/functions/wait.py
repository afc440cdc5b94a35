# /// script
# [tool.sandlot]
# visibility = "public"
# timeout = "30s"
# ///
"""Take as long as the event says (seconds), and no CPU: whoever makes the load needs that."""

import time


def handler(event, context):
    time.sleep(event["s"])
    return event["s"]
