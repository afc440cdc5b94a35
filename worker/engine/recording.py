"""Finished attempts, and the slow calls that record some of them.

The dispatcher's next step records a small result of a successful run. Before a large result is
recorded its chunks are stored, and Redis decides one by one whether a failure is retried. An
attempt that has run is not run again because Redis was away, so both calls are repeated until Redis
answers.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic as monotonic_s
from typing import Final, TypeVar, cast

import hiredis
import msgspec

from sandlot.errors import QueueUnavailable
from sandlot.jobs.large_results import LARGE_RESULT_BYTES, split_chunks
from sandlot.jobs.settlement import EncodedResult, SealedOutcome, encode_chunked_result, encode_result
from sandlot.jobs.worker_queue import Claim, RetryDecision, WorkerQueue
from sandlot.models import CRASHES, Outcome, RetryPolicy, Timings
from sandlot.offload import OFFLOAD_BYTES
from sandlot.redis.pipeline import BACKOFFS_S

log = logging.getLogger(__name__)

CHUNKS_AT_ONCE: Final = 4
"""Chunks in flight together, a mebibyte: one at a time would wait a round trip for each when Redis
is some milliseconds away. Only these chunks are copied."""

Answer = TypeVar("Answer")
_NOTHING_TIMED: Final = Timings()


class FinishedAttempt(msgspec.Struct, eq=False):
    """An attempt whose outcome is not recorded yet. Moments are by `time.monotonic`."""

    claim: Claim
    function: str
    version: int
    outcome: Outcome
    claimed_s: float
    done_s: float
    retry: RetryPolicy | None = None
    """None if every further attempt would end in the same way."""
    encoded: EncodedResult | None = None
    """Set for a large result only, which is encoded or stored before a step records it."""
    timings: Timings = _NOTHING_TIMED
    """Complete once `seal` was called."""

    @property
    def recorded_bytes(self) -> int:
        """How many bytes of its result the step carries; 0 if the result is already stored."""
        return 0 if self.encoded is not None and self.encoded.digests else len(self.outcome.result)

    def seal(self, queue: WorkerQueue, now_s: float) -> SealedOutcome:
        """Return the signed arguments that record it; `settle` is its wait for this moment."""
        inner, queued_ms = self.outcome.timings, self.claim.queued_ms
        self.timings = Timings(
            queued=queued_ms,
            boot=inner.boot,
            import_=inner.import_,
            run=inner.run,
            settle=round((now_s - self.done_s) * 1000, 3),
            total=round(queued_ms + (now_s - self.claimed_s) * 1000, 3),
        )
        return queue.seal_outcome(self.claim, self.function, self.version, self.outcome, self.timings, self.encoded)

    def log_fields(self) -> dict[str, object]:
        """Return the fields of a log line about this attempt."""
        return {
            "job_id": self.claim.job_id,
            "attempt": self.claim.attempt,
            "function": self.function,
            "version": self.version,
            "outcome": self.outcome.kind.value,
            "run_ms": self.timings.run,
            "total_ms": self.timings.total,
        }


def retry_decision(finished: FinishedAttempt) -> RetryDecision | None:
    """Return what Redis has to decide about an attempt; None if it only has to be recorded."""
    kind, retry = finished.outcome.kind, finished.retry
    crashed = kind in CRASHES
    retried = retry is not None and kind in retry.on
    if not (crashed or retried or finished.claim.probe):
        return None
    if retry is None or not retried:
        return RetryDecision(crashed=crashed, probe=finished.claim.probe)
    return RetryDecision(
        attempts=retry.attempts,
        backoff_ms=retry.backoff_ms,
        jitter=secrets.randbelow(1001),
        max_age_ms=retry.max_age_ms,
        crashed=crashed,
        probe=finished.claim.probe,
    )


async def record_slowly(queue: WorkerQueue, finished: FinishedAttempt, decision: RetryDecision | None) -> str:
    """Store a large result, and let Redis retry or record the attempt if there is a decision.

    Returns:
        `stored` if the next step has to record the attempt; `stale` if the lease is lost; else the
        answer of retry_or_fail.lua: `ok`, `again`, `already` or `stale`.
    """
    while True:
        if len(finished.outcome.result) > OFFLOAD_BYTES and not await _store_result(queue, finished):
            return "stale"
        if decision is None:
            return "stored"
        answer = await _retry_or_record(queue, finished, decision)
        if answer != "unstored":  # The chunks are gone from Redis: they are stored again.
            return answer


async def release(queue: WorkerQueue, leases: Sequence[str], *, delay_ms: int) -> None:
    """Give leases back: their jobs may be claimed after `delay_ms`; the attempts do not count."""
    try:
        await queue.release(leases, delay_ms=delay_ms)
    except QueueUnavailable as error:
        # The reaper finds the jobs when their leases expire, at the price of an attempt.
        log.warning("could not release", extra={"jobs": len(leases), "error": error.message})


async def _store_result(queue: WorkerQueue, finished: FinishedAttempt) -> bool:
    """Encode a large result in a thread and store its chunks, if it is large enough for chunks.

    Returns:
        False if another worker has the job by now.
    """
    result = finished.outcome.result
    encoded = finished.encoded
    if encoded is None:
        encode = encode_result if len(result) <= LARGE_RESULT_BYTES else encode_chunked_result
        encoded = finished.encoded = await asyncio.to_thread(encode, result)
    if not encoded.digests:
        return True
    chunks = list(split_chunks(result))
    for first in range(0, len(chunks), CHUNKS_AT_ONCE):
        some = enumerate(chunks[first : first + CHUNKS_AT_ONCE], first)
        if not all(await asyncio.gather(*(_store_chunk(queue, finished, number, bytes(it)) for number, it in some))):
            return False
    return True


async def _store_chunk(queue: WorkerQueue, finished: FinishedAttempt, number: int, chunk: bytes) -> bool:
    return await _repeat(finished, "storing is repeated", lambda: queue.put_result_chunk(finished.claim, number, chunk))


async def _retry_or_record(queue: WorkerQueue, finished: FinishedAttempt, decision: RetryDecision) -> str:
    reply = await _repeat(
        finished,
        "retry decision is repeated",
        lambda: queue.retry_or_fail(finished.seal(queue, monotonic_s()), decision),
    )
    return cast(bytes, reply).decode()


async def _repeat(finished: FinishedAttempt, event: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Make a call until Redis answers it. Only for calls that are safe to repeat.

    Args:
        event: logged at the first failure, and whenever Redis answers with an error.
    """
    failures = 0
    while True:
        try:
            return await call()
        except (QueueUnavailable, hiredis.ReplyError) as error:
            if failures == 0 or isinstance(error, hiredis.ReplyError):
                claim = finished.claim
                log.warning(event, extra={"job_id": claim.job_id, "attempt": claim.attempt, "error": str(error)})
            await asyncio.sleep(BACKOFFS_S[min(failures, len(BACKOFFS_S) - 1)])
            failures += 1
