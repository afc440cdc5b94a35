"""When a queued job may be over: how many stand before it, and how fast places of its queue have come free of late.

Knows: what pace.lua is asked and answers. Does not know: how it reckons (place_ms in transitions.lua, which submit.lua tells refused callers by).
Asked only by who looks at a queued job.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, cast

from sandlot.jobs.lua import Script, script
from sandlot.jobs.wire import Reply

POSITION_LIMIT: Final = 10_000
"""Behind this many others, a job's position is not counted."""


async def outlook(run: Callable[..., Awaitable[Reply]], queue: str, job_id: str) -> tuple[int | None, float | None]:
    """How many of its queue are before it, and in how many seconds it may be over; nothing for what nobody knows.

    Raises:
        QueueUnavailable
    """
    pace: Script = script("pace")
    position, over_ms = cast("list[int]", await run(pace, queue, job_id, POSITION_LIMIT))
    return (position if position >= 0 else None, round(over_ms / 1000, 1) if over_ms >= 0 else None)
