"""The engine's records of an attempt between its claim and its settlement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from sandlot.errors import SandlotError
from sandlot.jobs.settlement import EncodedResult, SealedOutcome
from sandlot.jobs.worker_queue import Claim, WorkerQueue
from sandlot.models import Evidence, FunctionError, Outcome, OutcomeKind, RetryPolicy, Timings
from worker.execution import Execution

NOTHING_TIMED: Final = Timings()


class RunningAttempt(msgspec.Struct, eq=False):
    """A claimed attempt that runs or waits for a slot. `claimed_s` is by `time.monotonic`."""

    claim: Claim
    function: str
    version: int
    execution: Execution
    claimed_s: float
    retry: RetryPolicy


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
    timings: Timings = NOTHING_TIMED
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


def refusal(error: SandlotError) -> Outcome:
    """Return the outcome of a job that no attempt can execute; its error says why."""
    return Outcome(
        kind=OutcomeKind.ERROR,
        error=FunctionError(error_type=f"Sandlot.{type(error).__name__}", error_message=error.message),
        evidence=Evidence(detail=error.code),
    )
