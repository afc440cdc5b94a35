"""Submitting: the arguments of `submit.lua`, its refusals as errors, and the batching of submits.

`Retry-After` is decided in two places. Every number that depends on the queues comes from Redis:
`submit.lua` (section "Refusals") estimates when a place is free, on top of `place_ms` in
`prelude.lua`, and returns it in ms. This module turns it into an error's `retry_after_s`, caps it
and fills in the constants where Redis cannot say (section "Refusals" below). `api/http/problems.py`
only prints the header.
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

# Arguments.

_DATA: Final = 4
"""The index of the event among a job's arguments."""


def submit_arguments(signing_key: bytes, invocation: Invocation, channel: str) -> tuple[Argument, ...]:
    """Return the arguments of `submit.lua` for one job, in its order.

    Args:
        channel: the channel to which the outcome is published; empty if no caller waits.
    """
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
        seal_callback(signing_key, invocation) if invocation.callback_url else b"",
    )


def scoped_key(owner: str, idempotency_key: str) -> str:
    """Return the idempotency key within its owner: two owners may use the same key."""
    return hashlib.sha256(f"{owner}\0{idempotency_key}".encode()).hexdigest()


def _success_ttl_s(invocation: Invocation, *, waited_for: bool) -> int:
    """Return RQ's `result_ttl`; `failure_ttl` holds for every other outcome.

    It is shorter only if the waiting caller is the only one that will ever ask. An idempotency key
    announces that the same request may come again, because its reply did not arrive.
    """
    if not waited_for or not invocation.delivered_ttl_s or invocation.idempotency_key:
        return invocation.result_ttl_s
    return min(invocation.delivered_ttl_s, invocation.result_ttl_s)


def _idempotency(invocation: Invocation) -> tuple[str, str]:
    """Return the scoped key and the fingerprint that a repeated request must match.

    The fingerprint covers the function and the event but not the version: a deployment between two
    tries must not turn a retry into a conflict.
    """
    if not invocation.idempotency_key:
        return "", ""
    scoped = scoped_key(invocation.owner, invocation.idempotency_key)
    state = hashlib.sha256(f"{invocation.function}\0".encode())
    state.update(invocation.event)
    return scoped, state.hexdigest()


# Refusals.

MAX_RETRY_AFTER_S: Final = 300.0
UNKNOWN_RETRY_AFTER_S: Final = 10.0
"""Used while nothing of the queue has ended or runs: without a rate, the script cannot estimate."""
NO_WORKER_RETRY_AFTER_S: Final = 5.0
MEMORY_RETRY_AFTER_S: Final = 5.0


def refusal(invocation: Invocation, reply: Sequence[bytes]) -> SandlotError:
    """Return the error for a reply with which `submit.lua` queued nothing."""
    if reply[0] == b"full":
        return _queue_full(invocation, reply)
    if reply[0] == b"broken":
        return _crash_loop(invocation, int(reply[1]))
    if reply[0] == b"gone":
        return job_gone(reply[1].decode())
    if reply[0] == b"conflict":
        return IdempotencyConflict("this idempotency key was used before, for another function or another payload")
    return _no_worker(invocation)


def _queue_full(invocation: Invocation, reply: Sequence[bytes]) -> QueueFull:
    """Each refused caller gets an estimate of its own from the script, so that they do not all
    return at once; where there is none, chance spreads them."""
    which, depth, wait_ms = reply[1], int(reply[2]), int(reply[3])
    spread = random.uniform(0.9, 1.1)  # noqa: S311  # spread, not secrecy
    retry_after_s = wait_ms / 1000 if wait_ms >= 0 else UNKNOWN_RETRY_AFTER_S * spread
    what = f"the queue of {invocation.function!r} holds" if which == b"function" else "all queues together hold"
    return QueueFull(
        f"{what} {depth} jobs, which is the limit", retry_after_s=min(MAX_RETRY_AFTER_S, retry_after_s), depth=depth
    )


def _crash_loop(invocation: Invocation, rest_ms: int) -> FunctionCrashLoop:
    return FunctionCrashLoop(
        f"{invocation.function!r} is crash-looping and paused for now; after the pause, one call at a time is"
        " admitted as a probe. Its last jobs show how it ended. Deploying it again lifts the pause at once",
        retry_after_s=rest_ms / 1000,
    )


def _no_worker(invocation: Invocation) -> NoWorker:
    return NoWorker(
        f"no live worker can run {invocation.function!r}: it needs one for {invocation.placement!r}."
        f" Start one with: {start_command(invocation.placement)}",
        retry_after_s=NO_WORKER_RETRY_AFTER_S,
    )


def memory_low(percent: int) -> QueueUnavailable:
    """Return the error for a submit that this process refuses by itself (`Admission`)."""
    return QueueUnavailable(
        f"{percent} % of Redis's memory is used, and the rest is reserved for accepted jobs; nothing was submitted",
        retry_after_s=MEMORY_RETRY_AFTER_S,
        applied="no",
    )


def job_gone(job_id: str) -> JobGone:
    return JobGone(
        f"the job {job_id} of this idempotency key has ended, and its result is no longer kept", job={"id": job_id}
    )


# Batching.

BATCH_LIMIT: Final = 64
BATCH_LIMIT_BYTES: Final = 256 * 1024
"""Of the jobs' data. Redis serves no other client during a script, and small jobs must not wait for
a large one to be sent."""


class SubmitBatcher:
    """Sends the submits of one event-loop tick in as few scripts as the limits allow."""

    def __init__(
        self, pipeline: RedisPipeline, admission: Admission, queue_limit_per_function: int, queue_limit: int
    ) -> None:
        self._admission = admission
        self._pipeline = pipeline
        self._limits = (queue_limit_per_function, queue_limit)
        self._script = script("submit")
        self._loop = asyncio.get_running_loop()
        self._unsent: list[tuple[Sequence[Argument], asyncio.Future[Reply]]] = []

    def send(self, arguments: Sequence[Argument]) -> asyncio.Future[Reply]:
        """Return a future for one job's reply. It fails as one of `RedisPipeline.run` does; jobs
        that were sent together then fail together."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append((arguments, future))
        return future

    def send_all_or_none(
        self, arguments: Sequence[Argument], idempotency: str, fingerprint: str
    ) -> asyncio.Future[Reply]:
        """Send jobs of one queue that are accepted together or not at all. The reply has one entry
        per job, or one refusal for all of them."""
        return self._pipeline.run(
            self._script, *self._limits, self._admission.breakers_to_check, 1, idempotency, fingerprint, *arguments
        )

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        batch: list[Argument] = []
        futures: list[asyncio.Future[Reply]] = []
        size_bytes = 0
        for arguments, future in unsent:
            data_bytes = len(cast(bytes, arguments[_DATA]))
            if futures and (len(futures) == BATCH_LIMIT or size_bytes + data_bytes > BATCH_LIMIT_BYTES):
                self._run(batch, futures)
                batch, futures, size_bytes = [], [], 0
            batch.extend(arguments)
            futures.append(future)
            size_bytes += data_bytes
        self._run(batch, futures)

    def _run(self, batch: list[Argument], futures: list[asyncio.Future[Reply]]) -> None:
        reply = self._pipeline.run_now(
            self._script, *self._limits, self._admission.breakers_to_check, 0, "", "", *batch
        )
        reply.add_done_callback(lambda reply: _distribute(reply, futures))


def _distribute(reply: asyncio.Future[Reply], futures: list[asyncio.Future[Reply]]) -> None:
    """Resolve each job's future from the batch's reply. Futures that are done already belong to
    callers that have stopped waiting; their jobs are submitted all the same."""
    error = None if reply.cancelled() else reply.exception()
    replies: Sequence[Reply] = () if reply.cancelled() or error else cast("list[Reply]", reply.result())
    for index, future in enumerate(futures):
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        elif reply.cancelled():
            future.cancel()
        else:
            future.set_result(replies[index])
