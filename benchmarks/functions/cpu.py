# /// script
# [tool.sandlot]
# visibility = "public"
# ///
import time


def handler(event, context):
    """Burn 5 ms on this thread's own clock, so that waiting for a core does not count as work."""
    until_s = time.thread_time() + 0.005
    while time.thread_time() < until_s:
        pass
    return {"done": True}
