"""The cron scheduler: submits a job for each schedule that is due.

Every worker runs one. They agree through marks in Redis, which say up to when each schedule was
fired, and through idempotency keys, which make two submits for the same tick one job.
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

OWNER: Final = "$schedule"
"""Owner of scheduled jobs. No API key can have this name, so only admins see these jobs."""
_CLOCK_CHECK_S: Final = 1.0
"""Longest pause between two readings of Redis's clock while there are schedules: it may be set."""

_log: Final = logging.getLogger(__name__)


class Scheduler:
    """A background task that submits scheduled jobs, from `open` until `close`."""

    def __init__(
        self, client: Redis, signing_key: bytes, open_queue: Callable[[], Awaitable[Queue]], *, result_ttl_s: int
    ) -> None:
        """
        Args:
            open_queue: called when the first schedule is due; most platforms have no schedules.
            result_ttl_s: for functions whose manifest names none.
        """
        self._marks = ScheduleMarks(client)
        self._client = client
        self._signing_key = signing_key
        self._open_queue = open_queue
        self._queue: Queue | None = None
        self._result_ttl_s = result_ttl_s
        self._invalidation = Invalidation(client, keys.FUNCTIONS_CHANGED, self._on_change)
        self._changed = asyncio.Event()
        self._stale: set[str | None] = {None}
        """Functions to read again; None stands for all of them."""
        self._next_ms: dict[tuple[str, Schedule], int] = {}
        """When each is due next, as far as this worker knows: another may have fired it."""
        self._task: asyncio.Task[None] | None = None
        self._warned: dict[str, int] = {}
        """Per function, the tick for which this worker has logged that no worker can run it."""

    def open(self) -> None:
        """Start the task and return at once; Redis need not be reachable yet."""
        self._invalidation.start()
        self._task = asyncio.create_task(self._run(), name="scheduler")

    async def close(self) -> None:
        await self._invalidation.stop()
        await end_task(self._task)
        if self._queue is not None:
            await self._queue.close()

    def _on_change(self, name: str | None) -> None:
        self._stale.add(name)
        self._changed.set()

    async def _run(self) -> None:
        reachable = True
        while True:
            try:
                pause_s = await self._fire_due()
                reachable = True
            except QueueUnavailable as error:
                if reachable:  # log an outage once
                    _log.warning("schedules wait for Redis", extra={"error": error.message})
                reachable = False
                pause_s = _CLOCK_CHECK_S
            except Exception:  # noqa: BLE001 - one schedule's fault must not stop the others for ever
                _log.exception("schedules failed")
                pause_s = _CLOCK_CHECK_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()

    async def _fire_due(self) -> float | None:
        """Fire every schedule that is due; return the pause in seconds until the next check.

        None stands for a wait until a function changes: no function has a schedule.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        self._changed.clear()
        await self._refresh()
        if not self._next_ms:
            return None
        now_ms = await self._marks.now_ms()
        for name, schedule in [due for due, next_ms in self._next_ms.items() if next_ms <= now_ms]:
            await self._catch_up(name, schedule, now_ms)
        left_s = (min(self._next_ms.values()) - now_ms) / 1000
        return _CLOCK_CHECK_S if left_s <= 0 else min(_CLOCK_CHECK_S, left_s)

    async def _refresh(self) -> None:
        """Read the schedules of changed functions again.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        stale = frozenset(self._stale)
        if not stale:
            return
        everything = None in stale
        marked = await self._marks.marked()
        names = frozenset(await self._marks.function_names()) if everything else stale
        now_ms = await self._marks.now_ms()
        found = {} if everything else {key: ms for key, ms in self._next_ms.items() if key[0] not in stale}
        for name in names:
            version = await self._latest(name or "")
            schedule = None if version is None else version.manifest.cron_schedule()
            if version is not None and schedule is not None:
                mark_ms = await self._marks.mark(version.function, schedule, now_ms)
                found[version.function, schedule] = schedule.next_tick_ms(mark_ms)
        read_again = marked if everything else {text for text in marked if text.split(b" ")[0].decode() in stale}
        await self._marks.forget(read_again, found)
        self._next_ms = found
        self._stale -= stale

    async def _latest(self, name: str) -> Version | None:
        """Return the version that a call of the function would run now.

        None if there is none to call, or its record is not signed.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        try:
            return await Registry(self._client, self._signing_key).resolve(name)
        except QueueUnavailable:
            raise
        except SandlotError as error:
            _log.debug("no schedule", extra={"function": name, "reason": error.message})
            return None

    async def _catch_up(self, name: str, schedule: Schedule, now_ms: int) -> None:
        """Fire the latest tick that has passed, unless it was fired already; skip earlier ones.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        tick_ms = schedule.last_tick_ms(now_ms)
        if await self._marks.mark(name, schedule, now_ms) < tick_ms:
            version = await self._latest(name)
            if version is None or version.manifest.cron_schedule() != schedule:
                self._on_change(name)  # read again at once; nothing of the old schedule is fired
                return
            if not await self._fire(version, schedule, tick_ms):
                return
            await self._marks.advance(name, schedule, tick_ms)
        self._next_ms[name, schedule] = schedule.next_tick_ms(tick_ms)

    async def _fire(self, version: Version, schedule: Schedule, tick_ms: int) -> bool:
        """Submit a job for this tick; False if the tick is to be tried again later.

        True also covers a submit that was refused for good.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if self._queue is None:
            self._queue = await self._open_queue()
        where = {"function": version.function, "time": moment(tick_ms)}
        try:
            await self._queue.submit(self._invocation(self._queue, version, schedule, tick_ms), reply=False)
        except QueueUnavailable:
            raise
        except JobGone:
            # Another worker fired this tick long ago, while this one was suspended.
            _log.debug("schedule fired before", extra=where)
        except NoWorker as error:
            # As after any downtime, the latest tick is caught up on once a worker is back.
            if self._warned.get(version.function) != tick_ms:
                self._warned[version.function] = tick_ms
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


class ScheduleMarks:
    """The times up to which each schedule was fired, in Redis. Nothing is cached.

    A mark belongs to one function and one schedule. A changed schedule gets a new mark, so a deploy
    fires nothing that was due before it. Every method raises QueueUnavailable when Redis does not
    answer.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def now_ms(self) -> int:
        """Return the time by Redis's clock."""
        async with answering():
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def function_names(self) -> list[str]:
        """Return the names of all functions, with a schedule or without."""
        async with answering():
            names = cast("list[bytes]", await self._redis.zrange(keys.FUNCTIONS, 0, -1))
        return [name.decode("utf-8", "replace") for name in names]

    async def mark(self, name: str, schedule: Schedule, now_ms: int) -> int:
        """Return the time up to which a schedule was fired, in milliseconds.

        A new schedule is marked with `now_ms`: ticks before its first sight are never caught up on.
        """
        member = _member(name, schedule)
        async with answering(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.zadd(keys.SCHEDULES, {member: now_ms}, nx=True)
            pipeline.zscore(keys.SCHEDULES, member)
            score = (await pipeline.execute())[1]
        return int(score)

    async def advance(self, name: str, schedule: Schedule, tick_ms: int) -> None:
        """Record that a tick was fired. A late worker cannot move a mark back (ZADD with GT)."""
        async with answering():
            await self._redis.zadd(keys.SCHEDULES, {_member(name, schedule): tick_ms}, gt=True)

    async def marked(self) -> frozenset[bytes]:
        """Return the members of all marks, as `forget` takes them."""
        async with answering():
            return frozenset(cast("list[bytes]", await self._redis.zrange(keys.SCHEDULES, 0, -1)))

    async def forget(self, marked: Iterable[bytes], kept: Iterable[tuple[str, Schedule]]) -> None:
        """Remove those of `marked` that `kept` lacks; `marked` was read before `kept`."""
        gone = set(marked) - {_member(name, schedule).encode() for name, schedule in kept}
        if not gone:
            return
        async with answering():
            await self._redis.zrem(keys.SCHEDULES, *gone)


def _member(name: str, schedule: Schedule) -> str:
    return f"{name} {schedule.timezone} {schedule.cron}"
