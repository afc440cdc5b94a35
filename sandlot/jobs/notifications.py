"""Who in this process follows which job: one look for everybody.

Knows: who is told of which job, when to look, the script that does. Does not know: what a follower makes of it, HTTP.
Nothing in Redis says that a job has begun, or begins anew, and a message can be lost (publish reaches only who listens); so the jobs that are
followed are looked at each second, all in one script, which also tells their workers that somebody still watches. An end, a follower who comes
and a new subscription are looked at once. However many follow, and however many jobs, an idle second costs one script.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from enum import StrEnum
from typing import Final, cast

import msgspec

from sandlot.errors import QueueUnavailable, UnsafeRecord
from sandlot.jobs.inspection import known_status
from sandlot.jobs.settlement import UNSIGNED, JobResult, job_result_from, read_outcome_record
from sandlot.models import JobStatus
from sandlot.redis.lua import script
from sandlot.redis.pipeline import Reply
from sandlot.redis.pubsub import Subscription

LOOK_S: Final = 1.0
"""How long a change of status may go unnoticed. A worker forgets who has not said for 5 s that he watches (`WATCHED_S` in its following.py)."""
_AT_ONCE: Final = 500
"""Jobs in one script, for which everybody else waits: some 3 µs each."""

Answer = tuple[bytes, bytes, int] | None
"""Of one job, from follow.lua: RQ's status, outcome kind or nothing, attempt. `None`: there is no such job."""


class JobSnapshot(msgspec.Struct, frozen=True):
    """How a job stands, and which attempt at it is or was the last."""

    status: JobStatus
    attempt: int


class Follower:
    """One who follows one job. `changed` is set when there is news: the job stands differently, or it has printed more."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.polled = False
        """Whether the job was looked at since this one follows it: what was known before may be older than what he knows."""
        self._answer: Answer = None

    @property
    def snapshot(self) -> JobSnapshot | None:
        """How the job stood when it was last looked at; nothing if it was not there."""
        return None if self._answer is None else JobSnapshot(known_status(*self._answer[:2]), self._answer[2])

    def update(self, answer: Answer) -> None:
        if not self.polled or answer != self._answer:
            self.polled, self._answer = True, answer
            self.changed.set()


class JobFollowers:
    """One per process, on its waiters' channel."""

    def __init__(self, run: Callable[..., Awaitable[Reply]], channel: str) -> None:
        """`run`: one idempotent script."""
        self._run = run
        self._channel = channel
        self._jobs: dict[str, set[Follower]] = {}
        self._due: set[str] = set()
        self._wake = asyncio.Event()
        self._looker: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._looker = asyncio.create_task(self._keep_looking(), name="followers")

    @contextlib.contextmanager
    def follow(self, job_id: str) -> Iterator[Follower]:
        follower = Follower()
        self._jobs.setdefault(job_id, set()).add(follower)
        self._look_at(job_id)
        try:
            yield follower
        finally:
            self._jobs[job_id].remove(follower)
            if not self._jobs[job_id]:
                del self._jobs[job_id]

    def printed(self, job_id: str) -> None:
        """Its worker says that there is more to read."""
        for follower in self._jobs.get(job_id, ()):
            follower.changed.set()

    def ended(self, job_id: str) -> bool:
        """Its end was published; whether anybody here follows it."""
        if job_id not in self._jobs:
            return False
        self._look_at(job_id)
        return True

    def poll_all(self) -> None:
        """Messages may have been lost."""
        self._look_at(*self._jobs)

    def _look_at(self, *job_ids: str) -> None:
        self._due.update(job_ids)
        self._wake.set()

    async def _keep_looking(self) -> None:
        loop = asyncio.get_running_loop()
        all_due_s = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(all_due_s if self._jobs else None):
                    await self._wake.wait()
            self._wake.clear()
            if loop.time() >= all_due_s:
                self._due.update(self._jobs)
                all_due_s = loop.time() + LOOK_S
            due, self._due = [job_id for job_id in self._due if job_id in self._jobs], set()
            with contextlib.suppress(QueueUnavailable):  # all are looked at again within a second
                for start in range(0, len(due), _AT_ONCE):
                    await self._look(due[start : start + _AT_ONCE])

    async def _look(self, job_ids: list[str]) -> None:
        """
        Raises:
            QueueUnavailable
        """
        # Whoever comes while this look is under way has one of his own.
        followers = [tuple(self._jobs.get(job_id, ())) for job_id in job_ids]
        answers = cast("list[list[object] | None]", await self._run(script("follow"), self._channel, *job_ids))
        for answer, told in zip(answers, followers, strict=True):
            for follower in told:
                follower.update(None if answer is None else cast("tuple[bytes, bytes, int]", tuple(answer)))

    async def close(self) -> None:
        if self._looker is not None:
            self._looker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looker


log = logging.getLogger(__name__)

REREAD_INTERVAL_S: Final = 1.0
MORE: Final = b"+"
"""Instead of an end: the job has printed more (append_logs.lua)."""


class WaitEnd(StrEnum):
    """The reason for which a wait ended before its job did."""

    TIMEOUT = "timeout"
    STOPPING = "stopping"
    CALLER_GONE = "caller_gone"


ResultFuture = asyncio.Future[JobResult | WaitEnd]


class ResultWaiters:
    """The futures in this process that wait for a job's end, by job id.

    Each wait has a future of its own, so that a deadline ends one wait and not the others of that job.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._futures: dict[str, list[ResultFuture]] = {}
        self._waiting: set[ResultFuture] = set()
        self.stopping = False

    def register(self, job_id: str) -> ResultFuture:
        """Return a future for the job's end. Register before submitting; `unregister` afterwards in every case."""
        future: ResultFuture = self._loop.create_future()
        others = self._futures.get(job_id)
        if others is None:
            self._futures[job_id] = [future]
        else:
            others.append(future)
        return future

    def set_deadline(self, future: ResultFuture, wait_s: float) -> asyncio.TimerHandle:
        """End this wait after `wait_s`, or at `release`. The caller cancels the timer when the wait is over."""
        self._waiting.add(future)
        if self.stopping:
            end_wait(future, WaitEnd.STOPPING)
        return self._loop.call_later(wait_s, end_wait, future, WaitEnd.TIMEOUT)

    def unregister(self, job_id: str, future: ResultFuture) -> None:
        """Forget the future. It is left as it is."""
        self._waiting.discard(future)
        futures = self._futures.get(job_id, [])
        if future in futures:
            futures.remove(future)
            if not futures:
                del self._futures[job_id]

    def registered(self, job_id: str) -> list[ResultFuture] | None:
        return self._futures.get(job_id)

    def unresolved(self) -> list[str]:
        """Return the ids of the jobs whose end a future still waits for."""
        return [job_id for job_id, futures in self._futures.items() if not all(map(_is_done, futures))]

    def resolve(self, job_id: str, result: JobResult) -> None:
        for future in self._futures.get(job_id, ()):
            if not future.done():
                future.set_result(result)

    def fail(self, job_id: str, error: UnsafeRecord) -> None:
        for future in self._futures.get(job_id, ()):
            if not future.done():
                future.set_exception(error)

    def release(self) -> None:
        """End every wait, now and from now on, because this process stops."""
        self.stopping = True
        for future in self._waiting:
            end_wait(future, WaitEnd.STOPPING)

    def close(self) -> None:
        """End every wait, including those without a deadline."""
        for futures in self._futures.values():
            for future in futures:
                end_wait(future, WaitEnd.STOPPING)
        self._futures.clear()

    @property
    def waiting(self) -> int:
        """The number of waits with a deadline that has been set: callers that wait for an accepted job."""
        return len(self._waiting)


def end_wait(future: ResultFuture, reason: WaitEnd) -> None:
    if not future.done():
        future.set_result(reason)


class ResultNotifications:
    """The subscription that resolves `ResultWaiters`, with a re-read of the records each second behind it."""

    def __init__(
        self,
        url: str,
        channel: str,
        signing_key: bytes,
        read: Callable[[str], Awaitable[JobResult | None]],
        keep_result: Callable[[str], Awaitable[None]],
        waiters: ResultWaiters,
        followers: JobFollowers,
    ) -> None:
        """
        Args:
            read: the recorded end of a job, or nothing.
            keep_result: called with each job whose end arrived here after its waiter had left.
            followers: told of what is heard of any job, and that something may have been missed.
        """
        self._key = signing_key
        self._read = read
        self._keep_result = keep_result
        self._keeping: set[asyncio.Task[None]] = set()
        self._waiters = waiters
        self._followers = followers
        self._look = asyncio.Event()
        self._subscription = Subscription(url, channel, self._on_message, self._on_subscribed)
        self._rereader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """
        Raises:
            QueueUnavailable
        """
        await self._subscription.open()
        self._rereader = asyncio.create_task(self._reread(), name="waiters")

    def _on_subscribed(self) -> None:
        self._look.set()
        self._followers.poll_all()

    def _on_message(self, payload: bytes) -> None:
        """One or more ends (or `+`, for more to read), each `<length>\\n<job>\\n<signed end>\\n<result>` (prelude.lua)."""
        start = 0
        while (newline := payload.find(b"\n", start)) > 0:
            length = payload[start:newline]
            start = newline + 1 + int(length) if length.isdigit() else len(payload)
            self._on_end(payload[newline + 1 : start])

    def _on_end(self, message: bytes) -> None:
        name, _, rest = message.partition(b"\n")
        job_id = name.decode("utf-8", "replace")
        if rest == MORE:
            self._followers.printed(job_id)
            return
        followed = self._followers.ended(job_id)
        futures = self._waiters.registered(job_id)
        if futures is None:
            if not followed:
                self._keep_for_later(job_id)
            return
        if all(map(_is_done, futures)):
            return
        text, _, result = rest.partition(b"\n")
        try:
            end = read_outcome_record(self._key, job_id, text)
            if text.startswith(UNSIGNED) or (end.result_bytes and not (result or end.result_pieces)):
                # No worker saw it, or its result is neither here nor stored: what is missing is in the record.
                self._look.set()
                return
            self._waiters.resolve(job_id, job_result_from(job_id, end, result, function="", version=0))
        except UnsafeRecord as error:
            log.warning("forged message ignored", extra={"job_id": job_id, "error": error.message})

    def _keep_for_later(self, job_id: str) -> None:
        """Who waited here has left in the meantime, perhaps with the job's address."""
        task = asyncio.ensure_future(self._keep_result(job_id))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _reread(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REREAD_INTERVAL_S):
                    await self._look.wait()
            self._look.clear()
            await asyncio.gather(*(self._read_one(job_id) for job_id in self._waiters.unresolved()))

    async def _read_one(self, job_id: str) -> None:
        try:
            result = await self._read(job_id)
        except QueueUnavailable:
            return  # Looked up again within a second; the waiter has its own deadline.
        except UnsafeRecord as error:
            self._waiters.fail(job_id, error)
            return
        if result is not None:
            self._waiters.resolve(job_id, result)

    async def close(self) -> None:
        if self._rereader is not None:
            self._rereader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rereader
        await self._subscription.close()
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        self._waiters.close()


def _is_done(future: ResultFuture) -> bool:
    return future.done()
