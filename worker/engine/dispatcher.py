"""The hot path: claims become executions, executions become endings, endings and free slots become the next step.

Knows: what runs here, what waits to be recorded, when to step. Does not know: RQ, signals, sandboxes.
At most one step is in flight; what ends meanwhile goes with the next one, so batches form by themselves and under load one round trip serves
many jobs. Everything is a callback on one loop: no task per job, no polling. Durations are not taken from the loop's clock, which under uvloop
stands still within a tick and counts whole milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from time import monotonic as monotonic_s
from typing import Final

import hiredis
import msgspec

from sandlot.errors import CallerError, QueueUnavailable, SandlotError, UnsafeRecord
from sandlot.jobs.settlement import SealedOutcome
from sandlot.jobs.worker_queue import Claim, WorkerQueue
from sandlot.models import Outcome, OutcomeKind, RetryPolicy
from sandlot.redis.pipeline import BACKOFFS_S, Reply
from worker.engine.attempts import Batch, FinishedAttempt, RunningAttempt, WorkerTotals, refusal
from worker.engine.capacity import PATIENCE_S, Prefetch
from worker.engine.recording import Judgements, Releases, Storing
from worker.execution import Execution, Executor
from worker.metrics.counts import WorkerCounts

log = logging.getLogger(__name__)

ENDINGS_LIMIT: Final = 256
ENDINGS_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""What one step records at most: Redis does nothing else meanwhile."""
PLATFORM_PAUSE_MS: Final = 1000
"""How long a job waits that could not be started for a reason of ours; another worker may do better."""


class Dispatcher:
    """One per engine. `quiet` is set while nothing runs and nothing waits to be recorded."""

    def __init__(self, queue: WorkerQueue, pool: Executor, counts: WorkerCounts) -> None:
        self._queue = queue
        self._pool = pool
        self._counts = counts
        self.slots = pool.slots
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, RunningAttempt] = {}
        self._overflow: deque[RunningAttempt] = deque()
        self._finished: deque[FinishedAttempt] = deque()
        self._batch: Batch | None = None
        self._number = 0
        self._seen = -1
        self._failures = 0
        self._hungry = False
        self._parked = False
        self._scheduled = False
        self._releases = Releases(queue, counts, self._check_quiet)
        self._storing = Storing(queue, self._stored, self._lost_while_stored)
        self._judgements = Judgements(queue, counts, self._judged, self._storing.take)
        self._ahead = Prefetch()
        self._patience: asyncio.TimerHandle | None = None
        self.draining = False
        self.tally = WorkerTotals()
        self.quiet = asyncio.Event()
        self.quiet.set()

    @property
    def free(self) -> int:
        """Slots without work."""
        return max(0, self.slots - len(self._running))

    @property
    def leases(self) -> list[str]:
        """Every attempt whose right must be renewed: what runs, and what has run but is not recorded."""
        waiting = [*self._storing.records, *self._finished, *(self._batch.finished if self._batch else ())]
        held = [record.claim.lease for record in (*self._running.values(), *waiting)]
        return held + self._judgements.leases

    @property
    def running(self) -> int:
        return len(self._running)

    def attempt(self, job_id: str) -> int | None:
        """Which attempt at this job runs here; nothing if none does."""
        running = self._running.get(job_id)
        return None if running is None else running.claim.attempt

    # What arrives.

    def hungry(self) -> None:
        """There may be work, or our idle slots may not be known: step."""
        self._hungry = True
        self._kick()

    def resize(self, slots: int) -> None:
        """Have so many slots from now on; what runs beyond them runs on."""
        self.slots = slots
        self.hungry()

    def handed(self, claim: Claim, number: int) -> None:
        """A submit gave us this job; it is already ours."""
        self._seen = number
        if self.draining:
            self._releases.give([claim.lease], delay_ms=0)
            return
        self._begin(claim)
        if not self._parked and self.free:
            self.hungry()

    def subscribed(self) -> None:
        """The channel was (re)opened: hand-offs sent while it was not are lost, so both sides count anew."""
        self._seen = -1
        self.hungry()

    def cancel(self, job_id: str) -> None:
        running = self._running.get(job_id)
        if running is None:
            return
        if running in self._overflow:
            self._overflow.remove(running)
            self._done(running.execution, Outcome(kind=OutcomeKind.CANCELLED))
        else:
            self._pool.cancel(job_id)

    def lost(self, leases: Sequence[str]) -> None:
        """These attempts are another's now: what runs of them is killed, and nothing is recorded."""
        for lease in leases:
            job_id = lease.rpartition(":")[0]
            running = self._running.get(job_id)
            if running is not None and running.claim.lease == lease:
                self._counts.leases_lost += 1
                log.warning("lease lost", extra={"job_id": job_id, "attempt": running.claim.attempt})
                self._forget(running)
        self._after_change()

    # From claim to outcome.

    def _begin(self, claim: Claim) -> None:
        known = self._running.get(claim.job_id)
        if known is not None:
            if known.claim.attempt >= claim.attempt:
                return  # The same hand-off twice.
            self._forget(known)
        now_s = monotonic_s()
        try:
            envelope, event = self._queue.unseal(claim)
        except UnsafeRecord as error:
            log.warning("unsafe job refused", extra={"job_id": claim.job_id, "error": error.message})
            self._end(FinishedAttempt(claim, "", 0, refusal(error), now_s, now_s))
            return
        execution = Execution(
            job_id=claim.job_id,
            attempt=claim.attempt,
            function=envelope.function,
            version=envelope.version,
            digest=envelope.digest,
            event=event,
            wall_limit_ms=envelope.wall_limit_ms,
            traceparent=envelope.traceparent,
            queued_ms=claim.queued_ms,
            request=b"" if envelope.request is msgspec.UNSET else bytes(envelope.request),
        )
        # The event is the execution's now; a claim of 6 MiB need not be kept a second time.
        claim.data = b""
        running = RunningAttempt(claim, envelope.function, envelope.version, execution, now_s, envelope.retry)
        self.quiet.clear()
        self._running[claim.job_id] = running
        if len(self._running) > self.slots:
            self._overflow.append(running)
            if self._patience is None:
                self._patience = self._loop.call_later(PATIENCE_S, self._lose_patience)
        else:
            self._pool.start(execution, self._done)

    def _done(self, execution: Execution, ended: Outcome | SandlotError) -> None:
        running = self._running.get(execution.job_id)
        if running is None or running.execution is not execution:
            return
        del self._running[execution.job_id]
        if self._overflow:
            self._pool.start(self._overflow.popleft().execution, self._done)
        retry: RetryPolicy | None = running.retry
        if isinstance(ended, SandlotError):
            if not isinstance(ended, CallerError | UnsafeRecord):
                log.error("could not be executed", extra={"job_id": execution.job_id, "error": ended.message})
                self._releases.give([running.claim.lease], delay_ms=PLATFORM_PAUSE_MS)
                self._after_change()
                return
            ended, retry = refusal(ended), None
        self._ahead.note(ended.timings.run)
        now_s = monotonic_s()
        self.tally.working_s += now_s - running.claimed_s
        self._end(
            FinishedAttempt(running.claim, running.function, running.version, ended, running.claimed_s, now_s, retry)
        )

    def _end(self, finished: FinishedAttempt) -> None:
        if finished.outcome.kind is OutcomeKind.OK:
            self.tally.successes += 1
        else:
            self.tally.failures += 1
        self.quiet.clear()
        if not self._storing.take(finished):
            self._stored(finished)

    def _stored(self, finished: FinishedAttempt) -> None:
        if (finished.outcome.kind is not OutcomeKind.OK or finished.claim.probe) and self._judgements.take(finished):
            return
        self._finished.append(finished)
        self._kick()

    def _too_late(self, record: FinishedAttempt) -> None:
        self._counts.stale_outcomes += 1
        log.warning("outcome came too late", extra={"job_id": record.claim.job_id, "attempt": record.claim.attempt})

    def _lost_while_stored(self, record: FinishedAttempt) -> None:
        self._too_late(record)
        self._check_quiet()

    def _forget(self, running: RunningAttempt) -> None:
        """Kill it, if it has started; `_done` is not called."""
        del self._running[running.claim.job_id]
        if running in self._overflow:
            self._overflow.remove(running)
            return
        self._pool.abandon(running.claim.job_id)
        if self._overflow:
            self._pool.start(self._overflow.popleft().execution, self._done)

    def _lose_patience(self) -> None:
        """What waits in hand for a slot is for others, or for later: its clock has not started and its attempt will not count."""
        self._patience = None
        if not self._overflow:
            return
        due_s = self._overflow[0].claimed_s + PATIENCE_S
        if due_s > monotonic_s():
            self._patience = self._loop.call_later(due_s - monotonic_s(), self._lose_patience)
            return
        waiting, self._overflow = self._overflow, deque()
        for running in waiting:
            del self._running[running.claim.job_id]
        self._ahead.note_waited()
        self._releases.give([running.claim.lease for running in waiting], delay_ms=0)

    def _judged(self) -> None:
        self.hungry()
        self._check_quiet()

    def _after_change(self) -> None:
        """A slot came free without an ending to carry the news."""
        if not self._parked or self.draining:
            self._hungry = True
        self._kick()
        self._check_quiet()

    # Stepping.

    def _kick(self) -> None:
        """Step at the end of this loop tick, so that what ends together is recorded together."""
        if self._batch is None and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send_next)

    def _send_next(self) -> None:
        self._scheduled = False
        if self._batch is not None or not (self._finished or self._hungry):
            return
        self._hungry = False
        finished, endings = self._take_finished()
        self._number += 1
        free = 0 if self.draining else self.free
        held = self._ahead.allowance(self.slots) - max(0, len(self._running) - self.slots)
        ahead = 0 if self.draining else max(0, held)
        self._batch = Batch(self._number, free, ahead, self._seen, finished, endings)
        self._send()

    def _take_finished(self) -> tuple[list[FinishedAttempt], list[SealedOutcome]]:
        taken: list[FinishedAttempt] = []
        endings: list[SealedOutcome] = []
        size_bytes, now_s = 0, monotonic_s()
        while self._finished and len(taken) < ENDINGS_LIMIT and size_bytes < ENDINGS_LIMIT_BYTES:
            record = self._finished.popleft()
            size_bytes += record.recorded_bytes
            taken.append(record)
            endings.append(record.ending(self._queue, now_s))
        return taken, endings

    def _send(self) -> None:
        batch = self._batch
        if batch is not None:
            step = self._queue.settle_and_claim(batch.number, batch.free, batch.seen, batch.endings, ahead=batch.ahead)
            step.add_done_callback(self._stepped)

    def _stepped(self, reply: asyncio.Future[Reply]) -> None:
        if reply.cancelled():
            return
        error = reply.exception()
        if error is not None:
            self._again(error)
            return
        batch, self._batch = self._batch, None
        assert batch is not None  # noqa: S101  # a reply without a step would be a bug of ours
        self._failures = 0
        if batch.seen < 0 and self._seen < 0:
            self._seen = 0
        stepped = self._queue.parse_settle_and_claim(reply.result())
        for record, answer in zip(batch.finished, stepped.answers, strict=True):
            if answer == "ok":
                self._counts.count_outcome(record.function, record.version, record.outcome, record.timings)
                if log.isEnabledFor(logging.DEBUG):
                    log.debug("job ended", extra=record.facts())
            elif answer == "stale":
                self._too_late(record)
            elif answer == "unstored":
                self._storing.take(record)
        self._parked = stepped.parked
        if self.draining:
            self._releases.give([claim.lease for claim in stepped.claims], delay_ms=0)
        else:
            for claim in stepped.claims:
                self._begin(claim)
            if stepped.claims and not stepped.parked and self.free:
                self._hungry = True
        if self._finished or self._hungry:
            self._kick()
        self._check_quiet()

    def _again(self, error: BaseException) -> None:
        """The same step once more, after a pause: it may have been applied, and repeating it then returns the same claims."""
        if not isinstance(error, QueueUnavailable | hiredis.ReplyError):
            raise error
        pause_s = BACKOFFS_S[min(self._failures, len(BACKOFFS_S) - 1)]
        self._failures += 1
        if self._failures == 1 or isinstance(error, hiredis.ReplyError):
            log.warning("step is repeated", extra={"error": str(error), "unrecorded": len(self._finished)})
        self._loop.call_later(pause_s, self._send)

    def _check_quiet(self) -> None:
        if (
            not self._running
            and not self._storing.records
            and not self._finished
            and self._batch is None
            and not self._hungry
            and not self._releases.busy
            and not self._judgements.busy
        ):
            self.quiet.set()

    # Giving back.

    def drain(self) -> None:
        """Claim nothing from now on; the next step takes our idle slots out of Redis."""
        self.draining = True
        self.quiet.clear()
        self.hungry()

    def give_back(self) -> int:
        """Kill what still runs and release it; its attempts do not count. Returns how many."""
        running = list(self._running.values())
        self._overflow.clear()
        for record in running:
            self._pool.abandon(record.claim.job_id)
        self._running.clear()
        self._releases.give([record.claim.lease for record in running], delay_ms=0)
        self._check_quiet()
        return len(running)
