"""Redis's clock, for moments that a process writes into what it signs: the one clock by which jobs expire.

Knows: TIME, and what has passed here since it was asked. Does not know: this machine's wall clock, which may be ten minutes off.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, cast

from sandlot.redis.pipeline import RedisPipeline, Reply

GOOD_S: Final = 10.0
"""In this time two machines' clocks drift apart by less than a millisecond, and a Redis whose clock is set is noticed soon enough."""


class RedisClock:
    """`look` once before it is read."""

    def __init__(self, link: RedisPipeline) -> None:
        self._link = link
        self._epoch_ms = 0
        self._seen_s = 0.0

    async def refresh(self) -> None:
        """
        Raises:
            QueueUnavailable
        """
        self._see(await self._link.call("TIME"))

    def now_ms(self) -> int:
        """Milliseconds since the epoch. What was seen long ago is used once more, and replaced for the next who asks: nobody waits."""
        if time.monotonic() - self._seen_s > GOOD_S:
            self._link.call("TIME").add_done_callback(self._answered)
        return self._epoch_ms + round((time.monotonic() - self._seen_s) * 1000)

    def _answered(self, reply: asyncio.Future[Reply]) -> None:
        if not reply.cancelled() and reply.exception() is None:
            self._see(reply.result())

    def _see(self, reply: Reply) -> None:
        seconds, microseconds = (int(part) for part in cast("list[bytes]", reply))
        self._epoch_ms, self._seen_s = seconds * 1000 + microseconds // 1000, time.monotonic()
