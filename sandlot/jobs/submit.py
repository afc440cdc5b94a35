"""One invocation as submit.lua takes it.

Knows: the order of its arguments, how long what it makes is kept, what an idempotency key stands for. Does not know: how they are sent, what is answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from typing import Final, cast

from sandlot.errors import (
    FunctionCrashLoop,
    IdempotencyConflict,
    JobGone,
    NoWorker,
    QueueFull,
    QueueUnavailable,
    SandlotError,
)
from sandlot.jobs.admission import Admission
from sandlot.jobs.callbacks import seal_callback
from sandlot.jobs.envelope import DATA_PREFIX, DATA_SUFFIX, seal
from sandlot.models import Invocation
from sandlot.placement import start_command
from sandlot.redis import keys
from sandlot.redis.lua import script
from sandlot.redis.pipeline import Argument, RedisPipeline, Reply


def arguments_of(signing_key: bytes, invocation: Invocation, channel: str) -> tuple[Argument, ...]:
    """`channel`: where the end is to be told; empty if nobody waits."""
    return (
        invocation.job_id,
        keys.queue_name(invocation.function, invocation.placement),
        invocation.placement,
        seal(signing_key, invocation),
        b"".join((DATA_PREFIX, invocation.event, DATA_SUFFIX)),
        -(-invocation.wall_limit_ms // 1000),
        _success_ttl_s(invocation, waited_for=bool(channel)),
        invocation.result_ttl_s,
        f"{invocation.function} v{invocation.version}",
        invocation.concurrency,
        invocation.delay_ms,
        *_idempotency(invocation),
        channel,
        seal_callback(signing_key, invocation),
    )


def scoped_key(owner: str, idempotency_key: str) -> str:
    """The same key of two owners is two keys."""
    return hashlib.sha256(f"{owner}\0{idempotency_key}".encode()).hexdigest()


def _success_ttl_s(invocation: Invocation, *, waited_for: bool) -> int:
    """RQ's `result_ttl`, beside which `failure_ttl` is for every other end: shorter only if who waits is the one who will ever ask.

    An idempotency key announces that the same question may come again, just because the answer did not arrive.
    """
    if not waited_for or not invocation.delivered_ttl_s or invocation.idempotency_key:
        return invocation.result_ttl_s
    return min(invocation.delivered_ttl_s, invocation.result_ttl_s)


def _idempotency(invocation: Invocation) -> tuple[str, str]:
    """The key, scoped to its owner, and what must be the same for it to mean the same job: the function and the event, not the
    version, since a deployment between two tries must not turn a retry into a conflict."""
    if not invocation.idempotency_key:
        return "", ""
    scoped = scoped_key(invocation.owner, invocation.idempotency_key)
    state = hashlib.sha256(f"{invocation.function}\0".encode())
    state.update(invocation.event)
    return scoped, state.hexdigest()


LONGEST_S: Final = 300.0
UNKNOWN_S: Final = 10.0
"""Nothing of it has ended or runs, so nobody can tell."""


def full(invocation: Invocation, answer: Sequence[bytes]) -> QueueFull:
    """Each who is refused is told of a place of his own (submit.lua), so they do not all come back at once; where nobody can tell, chance parts them."""
    which, depth, wait_ms = answer[1], int(answer[2]), int(answer[3])
    retry_after_s = wait_ms / 1000 if wait_ms >= 0 else UNKNOWN_S * random.uniform(0.9, 1.1)  # noqa: S311  # spread, not secrecy
    whose = f"the queue of {invocation.function!r} holds" if which == b"function" else "all queues together hold"
    return QueueFull(
        f"{whose} {depth} jobs, which is the limit", retry_after_s=min(LONGEST_S, retry_after_s), depth=depth
    )


def crash_loop(invocation: Invocation, rest_ms: int) -> FunctionCrashLoop:
    return FunctionCrashLoop(
        f"{invocation.function!r} has crashed again and again, and is not started for a while; then one call at a time is tried."
        " Its last jobs say how it ended; deploying it again lets calls through at once",
        retry_after_s=rest_ms / 1000,
    )


def no_worker(invocation: Invocation) -> NoWorker:
    return NoWorker(
        f"no live worker can run {invocation.function!r}: it needs one for {invocation.placement!r}. Start one with: {start_command(invocation.placement)}",
        retry_after_s=5.0,
    )


def short_of_memory(percent: int) -> QueueUnavailable:
    return QueueUnavailable(
        f"{percent} % of Redis's memory is used, and the rest is kept for what has been accepted; nothing was submitted",
        retry_after_s=5.0,
        applied="no",
    )


def job_gone(job_id: str) -> JobGone:
    return JobGone(
        f"the job {job_id} of this idempotency key has ended, and its result is no longer kept", job={"id": job_id}
    )


def refusal(invocation: Invocation, answer: Sequence[bytes]) -> SandlotError:
    """Why submit.lua queued nothing."""
    if answer[0] == b"full":
        return full(invocation, answer)
    if answer[0] == b"broken":
        return crash_loop(invocation, int(answer[1]))
    if answer[0] == b"gone":
        return job_gone(answer[1].decode())
    if answer[0] == b"conflict":
        return IdempotencyConflict("this idempotency key was used before, for another function or another payload")
    return no_worker(invocation)


BATCH_LIMIT: Final = 64
BATCH_LIMIT_BYTES: Final = 256 * 1024
"""Of the jobs' data: Redis does nothing else meanwhile, and small jobs do not wait for a large one to be sent."""

_DATA: Final = 4
"""Which of a job's arguments is the event."""


class SubmitBatcher:
    """One per link."""

    def __init__(
        self, link: RedisPipeline, breakers: Admission, queue_limit_per_function: int, queue_limit: int
    ) -> None:
        self._breakers = breakers
        self._link = link
        self._limits = (queue_limit_per_function, queue_limit)
        self._script = script("submit")
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Sequence[Argument], asyncio.Future[Reply]]] = []

    def send(self, arguments: Sequence[Argument]) -> asyncio.Future[Reply]:
        """One job's answer. The future fails as one of `RedisPipeline.run` does; those sent together then fail together."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append((arguments, future))
        return future

    def send_whole(self, arguments: Sequence[Argument], idempotency: str, fingerprint: str) -> asyncio.Future[Reply]:
        """Jobs of one queue that are taken all together or not at all: one answer for each, or one refusal for all."""
        return self._link.run(
            self._script, *self._limits, self._breakers.breakers_to_check, 1, idempotency, fingerprint, *arguments
        )

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        batch: list[Argument] = []
        futures: list[asyncio.Future[Reply]] = []
        size_bytes = 0
        for arguments, future in waiting:
            data_bytes = len(cast(bytes, arguments[_DATA]))
            if futures and (len(futures) == BATCH_LIMIT or size_bytes + data_bytes > BATCH_LIMIT_BYTES):
                self._run(batch, futures)
                batch, futures, size_bytes = [], [], 0
            batch.extend(arguments)
            futures.append(future)
            size_bytes += data_bytes
        self._run(batch, futures)

    def _run(self, batch: list[Argument], futures: list[asyncio.Future[Reply]]) -> None:
        self._link.run_now(
            self._script, *self._limits, self._breakers.breakers_to_check, 0, "", "", *batch
        ).add_done_callback(lambda reply: _tell(reply, futures))


def _tell(reply: asyncio.Future[Reply], futures: list[asyncio.Future[Reply]]) -> None:
    """Whoever has stopped waiting is passed over: his job is submitted all the same."""
    error = None if reply.cancelled() else reply.exception()
    answers: Sequence[Reply] = () if reply.cancelled() or error else cast("list[Reply]", reply.result())
    for index, future in enumerate(futures):
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        elif reply.cancelled():
            future.cancel()
        else:
            future.set_result(answers[index])
