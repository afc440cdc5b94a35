"""What the engine keeps of a job between its claim and its record.

Knows: claims, executions, outcomes, the moments between them. Does not know: when a step is made.
"""

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
    """A claim and the moment it became ours (`time.monotonic`)."""

    claim: Claim
    function: str
    version: int
    execution: Execution
    claimed_s: float
    retry: RetryPolicy


class FinishedAttempt(msgspec.Struct, eq=False):
    """An execution whose outcome is not recorded yet."""

    claim: Claim
    function: str
    version: int
    outcome: Outcome
    claimed_s: float
    done_s: float
    retry: RetryPolicy | None = None
    """Nothing for what would end in the same way however often it were tried."""
    encoded: EncodedResult | None = None
    """Of a large result, which is encoded or stored before it waits for a step."""
    timings: Timings = NOTHING_TIMED
    """Complete once `ending` has been asked for."""

    @property
    def recorded_bytes(self) -> int:
        """How much of its result its record takes along."""
        return 0 if self.encoded is not None and self.encoded.digests else len(self.outcome.result)

    def ending(self, queue: WorkerQueue, now_s: float) -> SealedOutcome:
        """Signed, as a step takes it; `settle` is how long it waited for that step."""
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

    def facts(self) -> dict[str, object]:
        """For a log line."""
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
    """What RQ's registration shows of a worker."""

    successes: int = 0
    failures: int = 0
    working_s: float = 0.0


@dataclass(slots=True)
class Batch:
    """A step in flight, or to be sent again exactly as it was."""

    number: int
    free: int
    ahead: int
    seen: int
    finished: list[FinishedAttempt]
    endings: list[SealedOutcome]


def refusal(error: SandlotError) -> Outcome:
    """What cannot be executed, however often it is tried, ends as an error that says why."""
    return Outcome(
        kind=OutcomeKind.ERROR,
        error=FunctionError(error_type=f"Sandlot.{type(error).__name__}", error_message=error.message),
        evidence=Evidence(detail=error.code),
    )
