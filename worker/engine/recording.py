"""Jobs given back.

Knows: which releases are under way. Does not know: why a job is given back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from time import monotonic as monotonic_s
from typing import Final

import hiredis

from sandlot.errors import QueueUnavailable
from sandlot.jobs.large_results import LARGE_RESULT_BYTES, split_chunks
from sandlot.jobs.settlement import encode_chunked_result, encode_result
from sandlot.jobs.worker_queue import RetryDecision, WorkerQueue
from sandlot.models import CRASHES
from sandlot.offload import OFFLOAD_BYTES
from sandlot.redis.pipeline import BACKOFFS_S, Reply
from worker.engine.attempts import FinishedAttempt
from worker.metrics.counts import WorkerCounts

log = logging.getLogger(__name__)


class Releases:
    """Gives leases back in the background; `on_done` is called after each."""

    def __init__(self, queue: WorkerQueue, counts: WorkerCounts, on_done: Callable[[], None]) -> None:
        self._queue = queue
        self._counts = counts
        self._on_done = on_done
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    def give(self, leases: list[str], *, delay_ms: int) -> None:
        """Their jobs may be claimed again after `delay_ms`; their attempts do not count."""
        if leases:
            self._counts.given_back += len(leases)
            task = asyncio.get_running_loop().create_task(self._give(leases, delay_ms), name="release")
            self._tasks.add(task)
            task.add_done_callback(self._given)

    def _given(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._on_done()

    async def _give(self, leases: list[str], delay_ms: int) -> None:
        try:
            await self._queue.release(leases, delay_ms=delay_ms)
        except QueueUnavailable as error:
            # The reaper finds them when their leases run out, at the price of an attempt.
            log.warning("could not release", extra={"jobs": len(leases), "error": error.message})


AT_ONCE: Final = 4
"""Pieces on their way together: a mebibyte, so that a Redis some milliseconds away is not waited for each time. Only these are copied."""


class Storing:
    """One per engine. From the loop, `on_stored` gets each record back, or `on_lost` does: its attempt is another's now."""

    def __init__(
        self,
        queue: WorkerQueue,
        on_stored: Callable[[FinishedAttempt], None],
        on_lost: Callable[[FinishedAttempt], None],
    ) -> None:
        self._queue = queue
        self._on_stored = on_stored
        self._on_lost = on_lost
        self._tasks: dict[asyncio.Task[None], FinishedAttempt] = {}

    @property
    def records(self) -> list[FinishedAttempt]:
        """Their leases are still needed."""
        return list(self._tasks.values())

    def take(self, record: FinishedAttempt) -> bool:
        """False if it is not large: nothing is done."""
        if len(record.outcome.result) <= OFFLOAD_BYTES:
            return False
        task = asyncio.get_running_loop().create_task(self._prepare(record), name="store")
        self._tasks[task] = record
        return True

    async def _prepare(self, record: FinishedAttempt) -> None:
        result = record.outcome.result
        encode = encode_result if len(result) <= LARGE_RESULT_BYTES else encode_chunked_result
        encoded = record.encoded if record.encoded is not None else await asyncio.to_thread(encode, result)
        kept = not encoded.digests or await self._store(record, result)
        record.encoded = encoded
        task = asyncio.current_task()
        if task is not None:
            del self._tasks[task]
        (self._on_stored if kept else self._on_lost)(record)

    async def _store(self, record: FinishedAttempt, result: bytes) -> bool:
        pieces = list(split_chunks(result))
        for first in range(0, len(pieces), AT_ONCE):
            some = enumerate(pieces[first : first + AT_ONCE], first)
            if not all(
                await asyncio.gather(*(self._store_piece(record, number, bytes(piece)) for number, piece in some))
            ):
                return False
        return True

    async def _store_piece(self, record: FinishedAttempt, number: int, piece: bytes) -> bool:
        """Repeated until it is answered: what has run is not run again because Redis is away."""
        failures = 0
        while True:
            try:
                return await self._queue.put_result_chunk(record.claim, number, piece)
            except QueueUnavailable as error:
                if failures == 0:
                    log.warning("storing is repeated", extra={"job_id": record.claim.job_id, "error": error.message})
                await asyncio.sleep(BACKOFFS_S[min(failures, len(BACKOFFS_S) - 1)])
                failures += 1


class Judgements:
    """One per engine; `on_done` is called after each answer: a slot is free and a job may be. `on_unstored` gets an ending whose result has
    gone before it could be recorded."""

    def __init__(
        self,
        queue: WorkerQueue,
        counts: WorkerCounts,
        on_done: Callable[[], None],
        on_unstored: Callable[[FinishedAttempt], object],
    ) -> None:
        self._queue = queue
        self._counts = counts
        self._on_done = on_done
        self._on_unstored = on_unstored
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[str, FinishedAttempt] = {}

    @property
    def busy(self) -> bool:
        return bool(self._under_way)

    @property
    def leases(self) -> list[str]:
        """Held until they are judged."""
        return list(self._under_way)

    def take(self, finished: FinishedAttempt) -> bool:
        """Whether this ending is one of ours; if so it will be recorded."""
        judgement = judgement_of(finished)
        if judgement is None:
            return False
        self._under_way[finished.claim.lease] = finished
        self._send(finished, judgement, 0)
        return True

    def _send(self, finished: FinishedAttempt, judgement: RetryDecision, failures: int) -> None:
        reply = self._queue.retry_or_fail(finished.ending(self._queue, monotonic_s()), judgement)
        reply.add_done_callback(lambda reply: self._answered(reply, finished, judgement, failures))

    def _answered(
        self, reply: asyncio.Future[Reply], finished: FinishedAttempt, judgement: RetryDecision, failures: int
    ) -> None:
        if reply.cancelled():
            return
        error = reply.exception()
        known = {"job_id": finished.claim.job_id, "attempt": finished.claim.attempt}
        if error is not None:
            if not isinstance(error, QueueUnavailable | hiredis.ReplyError):
                raise error
            if failures == 0 or isinstance(error, hiredis.ReplyError):
                log.warning("judgement is repeated", extra={**known, "error": str(error)})
            pause_s = BACKOFFS_S[min(failures, len(BACKOFFS_S) - 1)]
            self._loop.call_later(pause_s, self._send, finished, judgement, failures + 1)
            return
        answer = reply.result()
        if answer == b"ok":
            self._counts.count_outcome(finished.function, finished.version, finished.outcome, finished.timings)
        elif answer == b"again":
            self._counts.retried += 1
        elif answer == b"stale":
            self._counts.stale_outcomes += 1
            log.warning("outcome came too late", extra=known)
        elif answer == b"unstored":
            self._on_unstored(finished)
        del self._under_way[finished.claim.lease]
        self._on_done()


def judgement_of(finished: FinishedAttempt) -> RetryDecision | None:
    """What is to be decided about it; nothing for an ending that only has to be recorded."""
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
