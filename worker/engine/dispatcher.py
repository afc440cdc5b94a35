"""The dispatcher: claims jobs, starts them in the pool, and settles them.

A step is one round trip to Redis that settles finished attempts and claims the next jobs. At most
one is in flight. Attempts that finish meanwhile go with the next one, so batches form by
themselves, and under load one round trip serves many jobs. The usual path, from a claim to the
record of a small result, is made of callbacks on one loop: no task per job, no polling. Only the
slow calls of `recording.py` have tasks.

Durations are not taken from the loop's clock, which under uvloop stands still within a tick and
counts whole milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from time import monotonic as monotonic_s
from typing import Final

import hiredis
import msgspec

from sandlot.errors import CallerError, QueueUnavailable, SandlotError, UnsafeRecord
from sandlot.jobs.settlement import SealedOutcome
from sandlot.jobs.worker_queue import Claim, RetryDecision, WorkerQueue
from sandlot.models import Evidence, FunctionError, Outcome, OutcomeKind, RetryPolicy
from sandlot.offload import OFFLOAD_BYTES
from sandlot.redis.pipeline import BACKOFFS_S, Reply
from worker.engine import recording
from worker.engine.recording import FinishedAttempt
from worker.execution import Execution, Executor
from worker.metrics.counts import WorkerCounts

log = logging.getLogger(__name__)

STEP_LIMIT: Final = 256
"""Attempts that one step settles at most: Redis does nothing else meanwhile."""
STEP_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""The same limit in bytes of results; the last result may pass it."""
PLATFORM_PAUSE_MS: Final = 1000
"""Pause before a job that could not be started for a fault of the platform may be claimed again,
perhaps by a worker that can start it."""
SHORT_RUN_MS: Final = 5.0
"""Runs that take less than this on average are short: only then are jobs prefetched."""
TARGET_WAIT_MS: Final = 10.0
"""About how long the last prefetched job waits for its slot. A lost wake-up would cost as much."""
PREFETCH_PER_SLOT: Final = 12
"""Upper limit: prefetched jobs are held up by a lease if this worker dies. Measured with 2, 4, 6
and 10, each better than the one before."""
PREFETCH_WAIT_LIMIT_S: Final = 0.05
"""A prefetched job that has waited this long goes back to its queue: the runs before it were not as
short as those before them."""
_NEWEST_RUN_WEIGHT: Final = 0.1
"""Share of the newest run in the average, so that about ten runs decide."""


class RunningAttempt(msgspec.Struct, eq=False):
    """A claimed attempt that runs or waits for a slot. `claimed_s` is by `time.monotonic`."""

    claim: Claim
    function: str
    version: int
    execution: Execution
    claimed_s: float
    retry: RetryPolicy


@dataclass(slots=True)
class WorkerTotals:
    """Counters of a worker that RQ's registration shows."""

    successes: int = 0
    failures: int = 0
    working_s: float = 0.0


@dataclass(slots=True)
class Step:
    """Arguments of a step that is in flight. A repeated step has the same ones."""

    number: int
    free: int
    prefetch: int
    last_hand_off: int
    finished: list[FinishedAttempt]
    sealed: list[SealedOutcome]


class Prefetch:
    """Limit of the jobs that a worker claims beyond its idle slots.

    With runs shorter than a round trip to Redis, a slot would wait longer for its next job than it
    works on it, and each step would settle and claim one or two. Prefetched jobs keep the slots
    busy and make each step serve many: with up to twelve a slot instead of two, 256 clients get 1.1
    times as many answers. Longer runs gain nothing from it, and no other worker can run a
    prefetched job. settle_and_claim.lua gives each worker at most its share of the queued jobs.

    The average run time starts above `SHORT_RUN_MS`, and returns there after each job that has
    waited too long.
    """

    def __init__(self) -> None:
        self._run_ms = 2 * SHORT_RUN_MS

    def note_run(self, run_ms: float) -> None:
        """Count a run. A long run counts as four short ones at most.

        Otherwise a single long run would stop prefetching for hundreds of runs.
        """
        self._run_ms += (min(run_ms, 4 * SHORT_RUN_MS) - self._run_ms) * _NEWEST_RUN_WEIGHT

    def note_waited_too_long(self) -> None:
        """Stop prefetching until runs are short again."""
        self._run_ms = 4 * SHORT_RUN_MS

    def limit(self, slots: int) -> int:
        """Return how many jobs a worker with this many slots may hold beyond them."""
        if self._run_ms >= SHORT_RUN_MS:
            return 0
        return slots * int(min(PREFETCH_PER_SLOT, TARGET_WAIT_MS / max(self._run_ms, 0.001)))


class Dispatcher:
    """The loop that claims, starts and settles the jobs of one engine.

    `idle` is set while nothing runs, nothing waits to be recorded and no step is in flight.
    """

    def __init__(self, queue: WorkerQueue, pool: Executor, counts: WorkerCounts) -> None:
        self._queue = queue
        self._pool = pool
        self._counts = counts
        self.slots = pool.slots
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, RunningAttempt] = {}
        self._prefetched: deque[RunningAttempt] = deque()
        """The part of `_running` that waits for a slot, the oldest first."""
        self._finished: deque[FinishedAttempt] = deque()
        """Attempts for the next step to record."""
        self._recorded_slowly: dict[str, FinishedAttempt] = {}
        """Attempts by lease, each with a task that records it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._step: Step | None = None
        self._step_number = 0
        self._step_failures = 0
        self._step_scheduled = False
        self._work_wanted = False
        self._last_hand_off = -1
        self._parked = False
        self._prefetch = Prefetch()
        self._prefetch_timer: asyncio.TimerHandle | None = None
        self._repeat_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.draining = False
        self.totals = WorkerTotals()
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def free(self) -> int:
        """Slots without work."""
        return max(0, self.slots - len(self._running))

    @property
    def running(self) -> int:
        """Claimed jobs, prefetched ones included, that have not ended."""
        return len(self._running)

    @property
    def leases(self) -> list[str]:
        """Leases to renew: of attempts that run, and of finished ones that are not recorded."""
        waiting = [*self._finished, *(self._step.finished if self._step else ())]
        held = [attempt.claim.lease for attempt in (*self._running.values(), *waiting)]
        return held + list(self._recorded_slowly)

    def attempt_of(self, job_id: str) -> int | None:
        """Return the number of the attempt at this job that runs here; None if none does."""
        running = self._running.get(job_id)
        return None if running is None else running.claim.attempt

    # Events from the engine and the worker's channel.

    def request_work(self) -> None:
        """Step soon: there may be work, or Redis may not know of the idle slots."""
        self._work_wanted = True
        self._schedule_step()

    def resize(self, slots: int) -> None:
        """Change the number of slots. Jobs that run beyond it run on."""
        self.slots = slots
        self.request_work()

    def on_hand_off(self, claim: Claim, number: int) -> None:
        """Start a job that a submit has handed to this worker, whose lease it already has."""
        self._last_hand_off = number
        if self.draining:
            self._release([claim.lease], delay_ms=0)
            return
        self._start(claim)
        if not self._parked and self.free:
            self.request_work()

    def on_subscribed(self) -> None:
        """Count hand-offs from zero again: those sent before the (re)subscription are lost."""
        self._last_hand_off = -1
        self.request_work()

    def on_leases_lost(self, leases: Sequence[str]) -> None:
        """Kill attempts whose leases have expired; they belong to another worker, or to none."""
        for lease in leases:
            job_id = lease.rpartition(":")[0]
            running = self._running.get(job_id)
            if running is not None and running.claim.lease == lease:
                self._counts.leases_lost += 1
                log.warning("lease lost", extra={"job_id": job_id, "attempt": running.claim.attempt})
                self._abandon(running)
        self._on_slot_freed()

    def cancel(self, job_id: str) -> None:
        """Kill a job, if it runs here, and record it as cancelled."""
        running = self._running.get(job_id)
        if running is None:
            return
        if running in self._prefetched:
            self._prefetched.remove(running)
            self._on_done(running.execution, Outcome(kind=OutcomeKind.CANCELLED))
        else:
            self._pool.cancel(job_id)

    # From a claim to an outcome.

    def _start(self, claim: Claim) -> None:
        known = self._running.get(claim.job_id)
        if known is not None:
            if known.claim.attempt >= claim.attempt:
                return  # the same hand-off twice
            self._abandon(known)
        now_s = monotonic_s()
        try:
            envelope, event = self._queue.unseal(claim)
        except UnsafeRecord as error:
            log.warning("unsafe job refused", extra={"job_id": claim.job_id, "error": error.message})
            self._record(FinishedAttempt(claim, "", 0, _refusal(error), now_s, now_s))
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
        # The execution owns the event now; a claim of 6 MiB need not be kept a second time.
        claim.data = b""
        running = RunningAttempt(claim, envelope.function, envelope.version, execution, now_s, envelope.retry)
        self.idle.clear()
        self._running[claim.job_id] = running
        if len(self._running) > self.slots:
            self._prefetched.append(running)
            if self._prefetch_timer is None:
                self._prefetch_timer = self._loop.call_later(PREFETCH_WAIT_LIMIT_S, self.return_prefetched)
        else:
            self._pool.start(execution, self._on_done)

    def _on_done(self, execution: Execution, ended: Outcome | SandlotError) -> None:
        running = self._running.get(execution.job_id)
        if running is None or running.execution is not execution:
            return
        del self._running[execution.job_id]
        if self._prefetched:
            self._pool.start(self._prefetched.popleft().execution, self._on_done)
        retry: RetryPolicy | None = running.retry
        if isinstance(ended, SandlotError):
            if not isinstance(ended, CallerError | UnsafeRecord):
                log.error("could not be executed", extra={"job_id": execution.job_id, "error": ended.message})
                self._release([running.claim.lease], delay_ms=PLATFORM_PAUSE_MS)
                self._on_slot_freed()
                return
            ended, retry = _refusal(ended), None
        self._prefetch.note_run(ended.timings.run)
        now_s = monotonic_s()
        self.totals.working_s += now_s - running.claimed_s
        self._record(
            FinishedAttempt(running.claim, running.function, running.version, ended, running.claimed_s, now_s, retry)
        )

    def _abandon(self, running: RunningAttempt) -> None:
        """Kill an attempt, if it has started, and forget it: `_on_done` is not called."""
        del self._running[running.claim.job_id]
        if running in self._prefetched:
            self._prefetched.remove(running)
            return
        self._pool.abandon(running.claim.job_id)
        if self._prefetched:
            self._pool.start(self._prefetched.popleft().execution, self._on_done)

    def _on_slot_freed(self) -> None:
        """Step for a slot that came free without an outcome, which would have caused a step."""
        if not self._parked or self.draining:
            self._work_wanted = True
        self._schedule_step()
        self._check_idle()

    def return_prefetched(self) -> None:
        """Release prefetched jobs, once the oldest has waited too long for its slot.

        They have not started and their attempts do not count; they may run at once on another
        worker.
        """
        self._prefetch_timer = None
        if not self._prefetched:
            return
        left_s = self._prefetched[0].claimed_s + PREFETCH_WAIT_LIMIT_S - monotonic_s()
        if left_s > 0:
            self._prefetch_timer = self._loop.call_later(left_s, self.return_prefetched)
            return
        waiting, self._prefetched = self._prefetched, deque()
        for running in waiting:
            del self._running[running.claim.job_id]
        self._prefetch.note_waited_too_long()
        self._release([running.claim.lease for running in waiting], delay_ms=0)

    # From an outcome to its record.

    def _record(self, finished: FinishedAttempt) -> None:
        outcome = finished.outcome
        decision = None
        if outcome.kind is OutcomeKind.OK:
            self.totals.successes += 1
        else:
            self.totals.failures += 1
        if outcome.kind is not OutcomeKind.OK or finished.claim.probe:
            decision = recording.retry_decision(finished)
        self.idle.clear()
        if decision is None and len(outcome.result) <= OFFLOAD_BYTES:
            self._finished.append(finished)
            self._schedule_step()
        else:
            self._start_recording(finished, decision)

    def _start_recording(self, finished: FinishedAttempt, decision: RetryDecision | None) -> None:
        if self._closed:
            return
        self._recorded_slowly[finished.claim.lease] = finished
        self._spawn(self._record_slowly(finished, decision), "record")

    async def _record_slowly(self, finished: FinishedAttempt, decision: RetryDecision | None) -> None:
        try:
            answer = await recording.record_slowly(self._queue, finished, decision)
        finally:
            del self._recorded_slowly[finished.claim.lease]
        if answer == "stored":
            self._finished.append(finished)
            self._schedule_step()
        else:
            self._count(finished, answer)
            self.request_work()  # a slot is free, and the job itself may be queued again

    def _count(self, finished: FinishedAttempt, answer: str) -> None:
        if answer == "ok":
            self._counts.count_outcome(finished.function, finished.version, finished.outcome, finished.timings)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("job ended", extra=finished.log_fields())
        elif answer == "again":
            self._counts.retried += 1
        elif answer == "stale":
            self._counts.stale_outcomes += 1
            claim = finished.claim
            log.warning("outcome came too late", extra={"job_id": claim.job_id, "attempt": claim.attempt})

    # Steps.

    def _schedule_step(self) -> None:
        """Step at the end of this loop tick, so that what ends together is recorded together."""
        if self._step is None and not self._step_scheduled:
            self._step_scheduled = True
            self._loop.call_soon(self._begin_step)

    def _begin_step(self) -> None:
        self._step_scheduled = False
        if self._step is not None or self._closed or not (self._finished or self._work_wanted):
            return
        self._work_wanted = False
        finished, sealed = self._pop_finished()
        self._step_number += 1
        free = 0 if self.draining else self.free
        more = self._prefetch.limit(self.slots) - max(0, len(self._running) - self.slots)
        prefetch = 0 if self.draining else max(0, more)
        self._step = Step(self._step_number, free, prefetch, self._last_hand_off, finished, sealed)
        self._send_step()

    def _pop_finished(self) -> tuple[list[FinishedAttempt], list[SealedOutcome]]:
        finished: list[FinishedAttempt] = []
        sealed: list[SealedOutcome] = []
        size_bytes, now_s = 0, monotonic_s()
        while self._finished and len(finished) < STEP_LIMIT and size_bytes < STEP_LIMIT_BYTES:
            attempt = self._finished.popleft()
            size_bytes += attempt.recorded_bytes
            finished.append(attempt)
            sealed.append(attempt.seal(self._queue, now_s))
        return finished, sealed

    def _send_step(self) -> None:
        step = self._step
        if step is not None:
            reply = self._queue.settle_and_claim(
                step.number, step.free, step.last_hand_off, step.sealed, prefetch=step.prefetch
            )
            reply.add_done_callback(self._on_step_reply)

    def _on_step_reply(self, reply: asyncio.Future[Reply]) -> None:
        if reply.cancelled():
            return
        error = reply.exception()
        if self._closed:
            return
        if error is not None:
            self._repeat_step(error)
            return
        step, self._step = self._step, None
        assert step is not None  # noqa: S101  # a reply without a step would be a bug of the pipeline
        self._step_failures = 0
        if step.last_hand_off < 0 and self._last_hand_off < 0:
            self._last_hand_off = 0
        settled = self._queue.parse_settle_and_claim(reply.result())
        for finished, answer in zip(step.finished, settled.answers, strict=True):
            if answer == "unstored":
                self._start_recording(finished, None)
            else:
                self._count(finished, answer)
        self._parked = settled.parked
        if self.draining:
            self._release([claim.lease for claim in settled.claims], delay_ms=0)
        else:
            for claim in settled.claims:
                self._start(claim)
            if settled.claims and not settled.parked and self.free:
                self._work_wanted = True
        if self._finished or self._work_wanted:
            self._schedule_step()
        self._check_idle()

    def _repeat_step(self, error: BaseException) -> None:
        """Send the same step again after a pause.

        Redis may have applied it already; it then repeats its answer, with the same claims.
        """
        if not isinstance(error, QueueUnavailable | hiredis.ReplyError):
            raise error
        pause_s = BACKOFFS_S[min(self._step_failures, len(BACKOFFS_S) - 1)]
        self._step_failures += 1
        if self._step_failures == 1 or isinstance(error, hiredis.ReplyError):
            log.warning("step is repeated", extra={"error": str(error), "unrecorded": len(self._finished)})
        self._repeat_timer = self._loop.call_later(pause_s, self._send_step)

    def _check_idle(self) -> None:
        if not (self._running or self._finished or self._step or self._work_wanted or self._tasks):
            self.idle.set()

    # Giving back, and the end.

    def drain(self) -> None:
        """Claim nothing from now on; the next step withdraws the idle slots from Redis."""
        self.draining = True
        self.idle.clear()
        self.request_work()

    def give_back(self) -> int:
        """Kill and release everything that runs; these attempts do not count.

        Returns:
            The number of jobs given back.
        """
        running = list(self._running.values())
        self._prefetched.clear()
        for attempt in running:
            self._pool.abandon(attempt.claim.job_id)
        self._running.clear()
        self._release([attempt.claim.lease for attempt in running], delay_ms=0)
        self._check_idle()
        return len(running)

    async def close(self) -> None:
        """Cancel what is still under way and do nothing from now on.

        Another worker's reaper queues the jobs again that are not settled by now.
        """
        self._closed = True
        for timer in (self._prefetch_timer, self._repeat_timer):
            if timer is not None:
                timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _release(self, leases: list[str], *, delay_ms: int) -> None:
        if leases and not self._closed:
            self._counts.given_back += len(leases)
            self._spawn(recording.release(self._queue, leases, delay_ms=delay_ms), "release")

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._check_idle()


def _refusal(error: SandlotError) -> Outcome:
    """Return the outcome of a job that no attempt can execute; its error says why."""
    return Outcome(
        kind=OutcomeKind.ERROR,
        error=FunctionError(error_type=f"Sandlot.{type(error).__name__}", error_message=error.message),
        evidence=Evidence(detail=error.code),
    )
