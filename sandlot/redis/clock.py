"""Redis's clock, for timestamps that a process signs: the one clock by which jobs expire.

It is read with TIME and carried forward with this process's monotonic clock. The host's wall clock
is not used; it may be ten minutes off.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, cast

from sandlot.redis.pipeline import RedisPipeline, Reply

MAX_AGE_S: Final = 10.0
"""In this time the clocks of two machines drift apart by less than a millisecond, and a change of
Redis's clock is noticed soon enough."""


class RedisClock:
    """A copy of Redis's clock. Call `refresh` once before the first `now_ms`."""

    def __init__(self, pipeline: RedisPipeline) -> None:
        self._pipeline = pipeline
        self._epoch_ms = 0
        self._read_s = 0.0

    async def refresh(self) -> None:
        """Read the clock now.

        Raises:
            QueueUnavailable
        """
        self._set(await self._pipeline.call("TIME"))

    def now_ms(self) -> int:
        """Return milliseconds since the epoch without waiting. An old reading is used once more and
        refreshed in the background."""
        if time.monotonic() - self._read_s > MAX_AGE_S:
            self._pipeline.call("TIME").add_done_callback(self._on_time)
        return self._epoch_ms + round((time.monotonic() - self._read_s) * 1000)

    def _on_time(self, reply: asyncio.Future[Reply]) -> None:
        if not reply.cancelled() and reply.exception() is None:
            self._set(reply.result())

    def _set(self, reply: Reply) -> None:
        seconds, microseconds = (int(part) for part in cast("list[bytes]", reply))
        self._epoch_ms, self._read_s = seconds * 1000 + microseconds // 1000, time.monotonic()
