"""Which functions have a schedule, and up to which moment each was fired.

Knows: how that is read and recorded. Does not know: what firing is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, cast

import msgspec
from redis.asyncio import Redis

from sandlot.errors import JobGone, NoWorker, QueueUnavailable, SandlotError
from sandlot.functions.registry import Registry
from sandlot.functions.schedule import Schedule, moment
from sandlot.functions.version import Version
from sandlot.jobs import Queue
from sandlot.models import DEFAULT_RETRY, Invocation
from sandlot.redis import keys
from sandlot.redis.connection import answering, end_task
from sandlot.redis.invalidation import Invalidation
from sandlot.redis.keys import FUNCTIONS_CHANGED

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


OWNER: Final = "$schedule"
"""No API key can have it: jobs of schedules are seen by admins only."""
LOOK_S: Final = 1.0
"""At most so long between two looks at Redis's clock, while there are schedules; it may be set."""


class Scheduler:
    """`open` it, `close` it."""

    def __init__(
        self, client: Redis, signing_key: bytes, open_queue: Callable[[], Awaitable[Queue]], *, result_ttl_s: int
    ) -> None:
        """
        Args:
            open_queue: called when something is due for the first time; most platforms have no schedules.
        """
        self._scheduled = Scheduled(client, signing_key)
        self._open_queue = open_queue
        self._queue: Queue | None = None
        self._result_ttl_s = result_ttl_s
        self._push = Invalidation(client, FUNCTIONS_CHANGED, self._note)
        self._changed = asyncio.Event()
        self._stale: set[str | None] = {None}
        self._next_ms: dict[tuple[str, Schedule], int] = {}
        """When each is due next, as far as we know: another may have fired it."""
        self._task: asyncio.Task[None] | None = None
        self._told: dict[str, int] = {}
        """Per function, the moment of which it was said that it waits for a worker."""

    def open(self) -> None:
        """Returns at once; Redis need not be there yet."""
        self._push.start()
        self._task = asyncio.create_task(self._run(), name="clockwork")

    async def close(self) -> None:
        await self._push.stop()
        await end_task(self._task)
        if self._queue is not None:
            await self._queue.close()

    def _note(self, name: str | None) -> None:
        self._stale.add(name)
        self._changed.set()

    async def _run(self) -> None:
        reachable = True
        while True:
            try:
                pause_s = await self._turn()
                reachable = True
            except QueueUnavailable as error:
                if reachable:  # an outage is said once
                    _log.warning("schedules wait for Redis", extra={"error": error.message})
                reachable = False
                pause_s = LOOK_S
            except Exception:  # noqa: BLE001 - one schedule's fault must not stop the others for ever
                _log.exception("schedules failed")
                pause_s = LOOK_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()

    async def _turn(self) -> float | None:
        """Fire what is due; how long nothing will be, or `None` until a function changes.

        Raises:
            QueueUnavailable
        """
        self._changed.clear()
        await self._look()
        if not self._next_ms:
            return None
        now_ms = await self._scheduled.now_ms()
        for name, schedule in [due for due, next_ms in self._next_ms.items() if next_ms <= now_ms]:
            await self._catch_up(name, schedule, now_ms)
        left_s = (min(self._next_ms.values()) - now_ms) / 1000
        return LOOK_S if left_s <= 0 else min(LOOK_S, left_s)

    async def _look(self) -> None:
        """Read anew what has changed.

        Raises:
            QueueUnavailable
        """
        stale = frozenset(self._stale)
        if not stale:
            return
        everything = None in stale
        marked = await self._scheduled.marked()
        names = frozenset(await self._scheduled.names()) if everything else stale
        now_ms = await self._scheduled.now_ms()
        found = {} if everything else {key: ms for key, ms in self._next_ms.items() if key[0] not in stale}
        for name in names:
            version = await self._scheduled.latest(name or "")
            schedule = None if version is None else version.manifest.cron_schedule()
            if version is not None and schedule is not None:
                mark_ms = await self._scheduled.mark(version.function, schedule, now_ms)
                found[version.function, schedule] = schedule.next_tick_ms(mark_ms)
        ours = marked if everything else {text for text in marked if text.split(b" ")[0].decode() in stale}
        await self._scheduled.forget(ours, found)
        self._next_ms = found
        self._stale -= stale

    async def _catch_up(self, name: str, schedule: Schedule, now_ms: int) -> None:
        """Fire the latest tick that passed, unless somebody has; those before it are left out.

        Raises:
            QueueUnavailable
        """
        tick_ms = schedule.last_tick_ms(now_ms)
        if await self._scheduled.mark(name, schedule, now_ms) < tick_ms:
            version = await self._scheduled.latest(name)
            if version is None or version.manifest.cron_schedule() != schedule:
                self._note(name)  # it will be read anew in a moment; nothing of what it was is fired
                return
            if not await self._fire(version, schedule, tick_ms):
                return
            await self._scheduled.advance(name, schedule, tick_ms)
        self._next_ms[name, schedule] = schedule.next_tick_ms(tick_ms)

    async def _fire(self, version: Version, schedule: Schedule, tick_ms: int) -> bool:
        """Whether this tick is dealt with: submitted, or refused for good.

        Raises:
            QueueUnavailable
        """
        if self._queue is None:
            self._queue = await self._open_queue()
        where = {"function": version.function, "time": moment(tick_ms)}
        try:
            await self._queue.submit(self._invocation(self._queue, version, schedule, tick_ms), reply=False)
        except QueueUnavailable:
            raise
        except JobGone:
            _log.debug("schedule fired before", extra=where)  # by another, long ago, while this worker stood still
        except NoWorker as error:
            # As after any downtime: when there is a worker again, the latest tick is caught up on.
            if self._told.get(version.function) != tick_ms:
                self._told[version.function] = tick_ms
                _log.warning("schedule waits for a worker", extra={**where, "reason": error.message})
            return False
        except SandlotError as error:
            _log.warning("schedule skipped", extra={**where, "reason": error.message})
        return True

    def _invocation(self, queue: Queue, version: Version, schedule: Schedule, tick_ms: int) -> Invocation:
        manifest = version.manifest
        return Invocation(
            job_id=queue.new_job_id(OWNER),
            function=version.function,
            version=version.number,
            digest=version.digest,
            placement=version.placement,
            event=msgspec.json.encode({"schedule": schedule.cron, "time": moment(tick_ms)}),
            wall_limit_ms=round(manifest.timeout_s * 1000),
            result_ttl_s=round(manifest.result_ttl_s) if manifest.result_ttl_s else self._result_ttl_s,
            retry=manifest.retry.policy if manifest.retry is not None else DEFAULT_RETRY,
            concurrency=manifest.concurrency,
            idempotency_key=f"schedule:{version.function}:{tick_ms}",
            owner=OWNER,
        )
