"""Which functions have a schedule, and up to which moment each was fired.

Knows: how that is read and recorded. Does not know: what firing is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import cast

from redis.asyncio import Redis

from sandlot.errors import QueueUnavailable, SandlotError
from sandlot.functions.registry import Registry
from sandlot.functions.schedule import Schedule
from sandlot.functions.version import Version
from sandlot.redis import keys
from sandlot.redis.connection import answering

_log = logging.getLogger(__name__)


class Scheduled:
    """Nothing is cached here: whoever asks is told what holds now. Every method raises QueueUnavailable when Redis does not answer.

    A mark is of one function and one schedule: another schedule begins anew, so that a deploy fires nothing that was due before it.
    """

    def __init__(self, redis: Redis, signing_key: bytes) -> None:
        self._redis = redis
        self._signing_key = signing_key

    async def now_ms(self) -> int:
        """By Redis's clock."""
        async with answering():
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def names(self) -> list[str]:
        """Of all functions, with a schedule or without."""
        async with answering():
            names = cast("list[bytes]", await self._redis.zrange(keys.FUNCTIONS, 0, -1))
        return [name.decode("utf-8", "replace") for name in names]

    async def latest(self, name: str) -> Version | None:
        """What the function means now; None where nothing can be called, or nothing that is signed."""
        try:
            return await Registry(self._redis, self._signing_key).resolve(name)
        except QueueUnavailable:
            raise
        except SandlotError as error:
            _log.debug("no schedule", extra={"function": name, "reason": error.message})
            return None

    async def mark(self, name: str, schedule: Schedule, now_ms: int) -> int:
        """Up to when it was fired. At the first sight of a schedule that is now: what was due before it is not caught up on."""
        member = _member(name, schedule)
        async with answering(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.zadd(keys.SCHEDULES, {member: now_ms}, nx=True)
            pipeline.zscore(keys.SCHEDULES, member)
            score = (await pipeline.execute())[1]
        return int(score)

    async def advance(self, name: str, schedule: Schedule, tick_ms: int) -> None:
        """It was fired up to there. A mark never moves back, whoever comes late."""
        async with answering():
            await self._redis.zadd(keys.SCHEDULES, {_member(name, schedule): tick_ms}, gt=True)

    async def marked(self) -> frozenset[bytes]:
        """What has a mark; for `forget`."""
        async with answering():
            return frozenset(cast("list[bytes]", await self._redis.zrange(keys.SCHEDULES, 0, -1)))

    async def forget(self, marked: Iterable[bytes], kept: Iterable[tuple[str, Schedule]]) -> None:
        """Remove what had a mark before `kept` was read, and is not among it."""
        gone = set(marked) - {_member(name, schedule).encode() for name, schedule in kept}
        if not gone:
            return
        async with answering():
            await self._redis.zrem(keys.SCHEDULES, *gone)


def _member(name: str, schedule: Schedule) -> str:
    return f"{name} {schedule.timezone} {schedule.cron}"
