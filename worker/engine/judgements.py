"""Endings that are more than a record: of jobs that may run again, and of functions that crash.

Knows: which endings these are, which of them are under way. Does not know: what is made of them (retry_or_fail.lua), how steps are made.
Each goes by itself and is sent until it is answered. Failures pay for that; a success of a function in good standing never comes here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from time import monotonic as monotonic_s

import hiredis

from sandlot.errors import QueueUnavailable
from sandlot.jobs.worker_queue import RetryDecision, WorkerQueue
from sandlot.models import CRASHES
from sandlot.redis.pipeline import BACKOFFS_S, Reply
from worker.engine.records import Finished
from worker.metrics.counts import WorkerCounts

log = logging.getLogger(__name__)


class Judgements:
    """One per engine; `on_done` is called after each answer: a slot is free and a job may be. `on_unstored` gets an ending whose result has
    gone before it could be recorded."""

    def __init__(
        self,
        queue: WorkerQueue,
        counts: WorkerCounts,
        on_done: Callable[[], None],
        on_unstored: Callable[[Finished], object],
    ) -> None:
        self._queue = queue
        self._counts = counts
        self._on_done = on_done
        self._on_unstored = on_unstored
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[str, Finished] = {}

    @property
    def busy(self) -> bool:
        return bool(self._under_way)

    @property
    def leases(self) -> list[str]:
        """Held until they are judged."""
        return list(self._under_way)

    def take(self, finished: Finished) -> bool:
        """Whether this ending is one of ours; if so it will be recorded."""
        judgement = judgement_of(finished)
        if judgement is None:
            return False
        self._under_way[finished.claim.lease] = finished
        self._send(finished, judgement, 0)
        return True

    def _send(self, finished: Finished, judgement: RetryDecision, failures: int) -> None:
        reply = self._queue.judge(finished.ending(self._queue, monotonic_s()), judgement)
        reply.add_done_callback(lambda reply: self._answered(reply, finished, judgement, failures))

    def _answered(
        self, reply: asyncio.Future[Reply], finished: Finished, judgement: RetryDecision, failures: int
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
            self._counts.ended(finished.function, finished.version, finished.outcome, finished.timings)
        elif answer == b"again":
            self._counts.retried += 1
        elif answer == b"stale":
            self._counts.stale_ends += 1
            log.warning("outcome came too late", extra=known)
        elif answer == b"unstored":
            self._on_unstored(finished)
        del self._under_way[finished.claim.lease]
        self._on_done()


def judgement_of(finished: Finished) -> RetryDecision | None:
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
