"""When a queued job may be over: how many stand before it, and how fast jobs of its queue have ended of late.

Knows: RQ's registries, which keep each job until its end + result_ttl. Does not know: what else waits, who asks.
Asked only by who looks at a queued job; submit.lua reckons the same for who is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, cast

from sandlot.jobs import keys
from sandlot.jobs.wire import Reply

WINDOW_S: Final = 20
POSITION_LIMIT: Final = 10_000
"""Behind this many others, a job's position is not counted (LPOS walks the list)."""

Call = Callable[..., Awaitable[Reply]]


async def position_of(call: Call, queue: str, job_id: str) -> int | None:
    """How many of its queue are before it; nothing if it is not among the first `POSITION_LIMIT`.

    Raises:
        QueueUnavailable
    """
    return cast("int | None", await call("LPOS", keys.QUEUE + queue, job_id, "MAXLEN", POSITION_LIMIT))


async def eta_s(call: Call, queue: str, job_id: str, position: int) -> float | None:
    """Seconds until it is over, if jobs of this queue go on ending as they did; nothing if none has ended lately.

    Raises:
        QueueUnavailable
    """
    clock, lives = await asyncio.gather(call("TIME"), call("HMGET", keys.JOB + job_id, "result_ttl", "failure_ttl"))
    now_s = int(cast("list[bytes]", clock)[0])
    ends = {now_s + int(life) for life in cast("list[bytes | None]", lives) if life is not None}
    registries = (keys.FINISHED, keys.FAILED, keys.CANCELED)
    counts = cast(
        "list[int]",
        await asyncio.gather(
            *(call("ZCOUNT", name + queue, end - WINDOW_S, end) for name in registries for end in ends)
        ),
    )
    ended = sum(counts)
    return round((position + 1) * WINDOW_S / ended, 1) if ended else None
