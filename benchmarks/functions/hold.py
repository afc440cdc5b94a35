# /// script
# [tool.sandlot]
# visibility = "public"
# timeout = "30s"
# ///
"""Occupy a slot until a moment that all calls share (seconds since the epoch), so that a queue can be filled while nobody works."""

import time


def handler(event, context):
    time.sleep(max(0.0, event["until_s"] - time.time()))
