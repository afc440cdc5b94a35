"""Looks at Redis with its own eyes, again and again, and writes what it sees into the history.

Knows: where a job's record is. Does not know: what it ought to be.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any, Final, cast

import redis

from sandlot.redis import keys
from tests.chaos.history import History, Record, Standing
from tests.chaos.rig import Rig

LOOK_INTERVAL_S: Final = 0.25
SETTLE_DEADLINE_S: Final = 90.0
"""For a hang: by then every lease has run out many times."""
REGISTRIES: Final = {"finished": keys.FINISHED, "failed": keys.FAILED, "canceled": keys.CANCELED}
FIELDS: Final = (keys.KIND, keys.ATTEMPT, keys.END, keys.QUEUED_MS, keys.ENDED_MS, keys.RELEASED)
LOOKS_BACK: Final = 100
"""How many finished jobs are looked at again with each look; all of them are at the end."""


class Observer:
    """One per plan."""

    def __init__(self, rig: Rig, history: History) -> None:
        self._rig = rig
        self._history = history
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._again: Iterator[str] = iter(())

    def start(self) -> None:
        self._task = asyncio.create_task(self._look_for_ever(), name="observer")

    async def _look_for_ever(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(redis.RedisError, OSError):  # Redis is what the plan has taken away
                await self.look((self._history.ids - self._history.records.keys()) | self._some_of_the_finished())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._stopping.wait()

    def _some_of_the_finished(self) -> set[str]:
        """Round and round: at 200 jobs a second all of them each time would be most of the load."""
        some = set(itertools.islice(self._again, LOOKS_BACK))
        if len(some) < LOOKS_BACK:
            self._again = iter(list(self._history.records))
        return some

    async def look(self, ids: set[str]) -> None:
        """Read these jobs' records once; whatever has ended goes into the history."""
        ordered = sorted(ids)
        for start in range(0, len(ordered), 200):
            some = ordered[start : start + 200]
            async with self._rig.redis.pipeline(transaction=True) as pipeline:
                for job_id in some:
                    pipeline.hmget(keys.JOB + job_id, FIELDS)
                    pipeline.xrange(keys.RESULTS + job_id)
                answers = await pipeline.execute()
            for job_id, fields, entries in zip(some, answers[::2], answers[1::2], strict=True):
                if fields[0] is not None:
                    self._history.saw(job_id, _record(fields, entries))

    async def unfinished(self) -> set[str]:
        """Acknowledged, and without a final record at this moment."""
        await self.look(self._history.ids - self._history.records.keys())
        return self._history.ids - self._history.records.keys()

    async def settle(self) -> None:
        """Wait until every acknowledged job has ended or is gone, or for too long."""
        ends_s = time.monotonic() + SETTLE_DEADLINE_S
        while time.monotonic() < ends_s and await self._there(await self.unfinished()):  # noqa: ASYNC110  # Redis has no event for it
            await asyncio.sleep(0.05)

    async def _there(self, ids: set[str]) -> bool:
        return bool(ids) and bool(await self._rig.redis.exists(*(keys.JOB + job_id for job_id in ids)))

    async def conclude(self) -> None:
        """Read every job a last time, acknowledged or not, and everything that may hold one."""
        await self.stop()
        client = self._rig.redis
        ids = {key.decode().removeprefix(keys.JOB) async for key in client.scan_iter(match=keys.JOB + "*", count=1000)}
        self._history.jobs = len(ids)
        await self.look(ids | self._history.ids)
        queues = [key.decode().removeprefix(keys.QUEUE) for key in await client.smembers(keys.QUEUES)]
        listed: dict[str, set[bytes]] = {name: set() for name in REGISTRIES}
        held = set(await client.zrange(keys.DUE, 0, -1))
        for queue in queues:
            held |= set(await client.lrange(keys.QUEUE + queue, 0, -1))
            for name, key in REGISTRIES.items():
                listed[name] |= set(await client.zrange(key + queue, 0, -1))
        held |= {member.rpartition(b":")[0] for member in await client.zrange(keys.LEASES, 0, -1)}
        for job_id in ids | self._history.ids:
            name = job_id.encode()
            registries = tuple(registry for registry, members in listed.items() if name in members)
            self._history.standings[job_id] = Standing(registries, name in held, gone=job_id not in ids)
        for worker in self._rig.workers:
            for note in worker.events("failpoint", "fail-point"):  # the second name is the released code's
                if note["point"] == "started":
                    self._history.runs[note["job_id"], note["attempt"]] += 1
        self._history.broke += self._rig.broke()

    async def stop(self) -> None:
        """Stop by a flag, not by cancellation.

        redis-py turns a cancellation that meets its own timeout into an error, and the loop would
        go on.
        """
        self._stopping.set()
        if self._task is not None:
            await self._task
            self._task = None


def _record(fields: list[bytes], entries: list[tuple[bytes, dict[bytes, bytes]]]) -> Record:
    kind, attempt, text, queued_ms, ended_ms, released = fields
    flat = tuple(
        b" ".join([number, *(cast(Any, word) for item in body.items() for word in item)]) for number, body in entries
    )
    return Record(
        kind.decode(), int(attempt or 0), text or b"", int(queued_ms or 0), int(ended_ms or 0), flat, int(released or 0)
    )
