"""What a worker that died was running, run again at once.

Knows: that whoever saw a process end need not wait for its leases. Does not know: how jobs move (`sandlot.jobs`), who restarts the process.
"""

from __future__ import annotations

import contextlib
import socket

from sandlot.errors import QueueUnavailable
from sandlot.jobs import Queue


async def run_again(redis_url: str, signing_key: str, pid: int) -> int:
    """Queue again what this process of ours was running; how many jobs. It must be dead: a living one's jobs would run twice.

    Nothing if Redis does not answer: then the other workers, or the next one, find the jobs when their leases run out.
    """
    with contextlib.suppress(QueueUnavailable):
        queue = await Queue.open(redis_url, signing_key.encode(), queue_limit=1, queue_limit_per_function=1)
        try:
            return await queue.bury(socket.gethostname(), pid)
        finally:
            await queue.close()
    return 0
