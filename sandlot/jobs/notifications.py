"""Pub/Sub notifications to one process: futures that wait for a job's end, and followers of a job.

Redis publishes to the clients that listen at that moment and never repeats a message (PUBLISH,
redis.io). Both halves of this module therefore read the truth again every second: the waiters from
the jobs' records, the followers with one script for all of them.
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
from sandlot.jobs.inspection import job_status
from sandlot.jobs.settlement import UNSIGNED, JobResult, job_result_from, read_outcome_record
from sandlot.models import JobStatus
from sandlot.redis.lua import script
from sandlot.redis.pipeline import Reply
from sandlot.redis.pubsub import Subscription

log = logging.getLogger(__name__)

POLL_INTERVAL_S: Final = 1.0
"""The longest time for which a follower misses a change of status. A worker stops streaming logs
to a follower that it has not heard of for 5 s (`worker/engine/log_stream.py`)."""
REREAD_INTERVAL_S: Final = 1.0
MORE_LOGS: Final = b"+"
"""Takes the place of an outcome in a message: the job has printed more (`append_logs.lua`)."""
_JOBS_PER_SCRIPT: Final = 500
"""Redis serves no other client during a script; one job takes some 3 µs of it."""

FollowReply = tuple[bytes, bytes, int] | None
"""One job in the reply of `follow.lua`: RQ's status, the outcome kind or nothing, the attempt.
`None`: there is no such job."""


class JobSnapshot(msgspec.Struct, frozen=True):
    """The status of a job and the number of its current or last attempt."""

    status: JobStatus
    attempt: int


class Follower:
    """One reader that follows one job. `changed` is set when the job's status has changed or it has
    printed more."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.polled = False
        """Set once the job was polled for this follower; an earlier poll may be older than what its
        reader has seen."""
        self._reply: FollowReply = None

    @property
    def snapshot(self) -> JobSnapshot | None:
        """The job as of the last poll; `None` if it did not exist."""
        return None if self._reply is None else JobSnapshot(job_status(*self._reply[:2]), self._reply[2])

    def update(self, reply: FollowReply) -> None:
        if not self.polled or reply != self._reply:
            self.polled, self._reply = True, reply
            self.changed.set()


class JobFollowers:
    """The jobs that readers in this process follow, polled together.

    Nothing in Redis announces that a job has started or started again, and messages can be lost, so
    one script polls all followed jobs each second and tells their workers that they are followed.
    A published end, a new follower and a new subscription are polled at once. An idle second costs
    one script, however many followers and jobs there are.
    """

    def __init__(self, run: Callable[..., Awaitable[Reply]], channel: str) -> None:
        """
        Args:
            run: runs one idempotent script.
            channel: this process's channel, to which workers publish.
        """
        self._run = run
        self._channel = channel
        self._jobs: dict[str, set[Follower]] = {}
        self._due: set[str] = set()
        self._wake = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._poller = asyncio.create_task(self._poll_forever(), name="followers")

    @contextlib.contextmanager
    def follow(self, job_id: str) -> Iterator[Follower]:
        follower = Follower()
        self._jobs.setdefault(job_id, set()).add(follower)
        self._poll_soon(job_id)
        try:
            yield follower
        finally:
            self._jobs[job_id].remove(follower)
            if not self._jobs[job_id]:
                del self._jobs[job_id]

    def on_more_logs(self, job_id: str) -> None:
        """Wake the followers: the job's worker published that there is more to read."""
        for follower in self._jobs.get(job_id, ()):
            follower.changed.set()

    def on_end(self, job_id: str) -> bool:
        """Poll a job whose end was published. Return whether it has a follower here."""
        if job_id not in self._jobs:
            return False
        self._poll_soon(job_id)
        return True

    def poll_all(self) -> None:
        """Poll every followed job at once, because messages may have been lost."""
        self._poll_soon(*self._jobs)

    def _poll_soon(self, *job_ids: str) -> None:
        self._due.update(job_ids)
        self._wake.set()

    async def _poll_forever(self) -> None:
        loop = asyncio.get_running_loop()
        all_due_s = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(all_due_s if self._jobs else None):
                    await self._wake.wait()
            self._wake.clear()
            if loop.time() >= all_due_s:
                self._due.update(self._jobs)
                all_due_s = loop.time() + POLL_INTERVAL_S
            due, self._due = [job_id for job_id in self._due if job_id in self._jobs], set()
            with contextlib.suppress(QueueUnavailable):  # All are polled again within a second.
                for start in range(0, len(due), _JOBS_PER_SCRIPT):
                    await self._poll(due[start : start + _JOBS_PER_SCRIPT])

    async def _poll(self, job_ids: list[str]) -> None:
        """
        Raises:
            QueueUnavailable
        """
        # A follower that comes during this poll has asked for one of its own.
        followers = [tuple(self._jobs.get(job_id, ())) for job_id in job_ids]
        replies = cast("list[list[object] | None]", await self._run(script("follow"), self._channel, *job_ids))
        for reply, followers_of_job in zip(replies, followers, strict=True):
            for follower in followers_of_job:
                follower.update(None if reply is None else cast("tuple[bytes, bytes, int]", tuple(reply)))

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller


class WaitEnd(StrEnum):
    """The reason for which a wait ended before its job did."""

    TIMEOUT = "timeout"
    STOPPING = "stopping"
    CALLER_GONE = "caller_gone"


ResultFuture = asyncio.Future[JobResult | WaitEnd]


class ResultWaiters:
    """The futures in this process that wait for a job's end, by job id.

    Each wait has a future of its own, so that a deadline ends one wait and not the others of that
    job.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._futures: dict[str, list[ResultFuture]] = {}
        self._waiting: set[ResultFuture] = set()
        self.stopping = False

    def register(self, job_id: str) -> ResultFuture:
        """Return a future for the job's end. Register before the submit, and `unregister` in every
        case."""
        future: ResultFuture = self._loop.create_future()
        others = self._futures.get(job_id)
        if others is None:
            self._futures[job_id] = [future]
        else:
            others.append(future)
        return future

    def set_deadline(self, future: ResultFuture, wait_s: float) -> asyncio.TimerHandle:
        """End this wait after `wait_s` or at `release`. The caller cancels the timer when the wait
        is over."""
        self._waiting.add(future)
        if self.stopping:
            end_wait(future, WaitEnd.STOPPING)
        return self._loop.call_later(wait_s, end_wait, future, WaitEnd.TIMEOUT)

    def unregister(self, job_id: str, future: ResultFuture) -> None:
        """Forget the future and leave it as it is."""
        self._waiting.discard(future)
        futures = self._futures.get(job_id, [])
        if future in futures:
            futures.remove(future)
            if not futures:
                del self._futures[job_id]

    def registered(self, job_id: str) -> list[ResultFuture] | None:
        return self._futures.get(job_id)

    def unresolved(self) -> list[str]:
        """Return the ids of the jobs for whose end a future still waits."""
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
        """The number of callers that wait for an accepted job."""
        return len(self._waiting)


def end_wait(future: ResultFuture, reason: WaitEnd) -> None:
    if not future.done():
        future.set_result(reason)


def _is_done(future: ResultFuture) -> bool:
    return future.done()


class ResultNotifications:
    """The subscription that resolves `ResultWaiters`, backed by a re-read of the records each
    second."""

    def __init__(
        self,
        url: str,
        channel: str,
        signing_key: bytes,
        read_result: Callable[[str], Awaitable[JobResult | None]],
        keep_result: Callable[[str], Awaitable[None]],
        waiters: ResultWaiters,
        followers: JobFollowers,
    ) -> None:
        """
        Args:
            read_result: returns the recorded outcome of a job, or `None`.
            keep_result: called with each job whose end arrived here after its waiter had left.
            followers: notified of every message, and of every new subscription.
        """
        self._key = signing_key
        self._read_result = read_result
        self._keep_result = keep_result
        self._keeping: set[asyncio.Task[None]] = set()
        self._waiters = waiters
        self._followers = followers
        self._must_reread = asyncio.Event()
        self._subscription = Subscription(url, channel, self._on_message, self._on_subscribed)
        self._rereader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Subscribe.

        Raises:
            QueueUnavailable: the subscription was not confirmed in time.
        """
        await self._subscription.open()
        self._rereader = asyncio.create_task(self._reread_forever(), name="waiters")

    def _on_subscribed(self) -> None:
        self._must_reread.set()
        self._followers.poll_all()

    def _on_message(self, payload: bytes) -> None:
        """Split a payload into messages, each `<length>\\n<job>\\n<outcome record>\\n<result>`, or
        `+` instead of the last two (`finish` in `prelude.lua`)."""
        start = 0
        while (newline := payload.find(b"\n", start)) > 0:
            length = payload[start:newline]
            start = newline + 1 + int(length) if length.isdigit() else len(payload)
            self._on_job_message(payload[newline + 1 : start])

    def _on_job_message(self, message: bytes) -> None:
        name, _, rest = message.partition(b"\n")
        job_id = name.decode("utf-8", "replace")
        if rest == MORE_LOGS:
            self._followers.on_more_logs(job_id)
            return
        followed = self._followers.on_end(job_id)
        futures = self._waiters.registered(job_id)
        if futures is None:
            if not followed:
                self._keep_in_background(job_id)
            return
        if all(map(_is_done, futures)):
            return
        text, _, result = rest.partition(b"\n")
        try:
            outcome = read_outcome_record(self._key, job_id, text)
            if text.startswith(UNSIGNED) or (outcome.result_bytes and not (result or outcome.result_digests)):
                # An unsigned outcome names no function, and the result may be missing here: the
                # record has both.
                self._must_reread.set()
                return
            self._waiters.resolve(job_id, job_result_from(job_id, outcome, result, function="", version=0))
        except UnsafeRecord as error:
            log.warning("forged message ignored", extra={"job_id": job_id, "error": error.message})

    def _keep_in_background(self, job_id: str) -> None:
        """Keep the result: its waiter has left, perhaps with the job's address."""
        task = asyncio.ensure_future(self._keep_result(job_id))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _reread_forever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REREAD_INTERVAL_S):
                    await self._must_reread.wait()
            self._must_reread.clear()
            await asyncio.gather(*(self._reread(job_id) for job_id in self._waiters.unresolved()))

    async def _reread(self, job_id: str) -> None:
        try:
            result = await self._read_result(job_id)
        except QueueUnavailable:
            return  # Read again within a second; the wait has its own deadline.
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
