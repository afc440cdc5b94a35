"""One execution between `start` and `done`.

Knows: what belongs to it and how an outcome is put together. Does not know: who runs it next.
"""

from __future__ import annotations

from collections.abc import Callable

from sandlot.errors import SandlotError
from sandlot.models import Outcome, OutcomeKind, Timings
from worker.execution import Execution
from worker.pool.resident import Resident
from worker.pool.shelf import Key
from worker.pool.verdict import Verdict

Done = Callable[[Execution, Outcome | SandlotError], None]


class Run:
    """`resident` is None until a sandbox works on it."""

    __slots__ = ("done", "execution", "key", "repeated", "resident", "started_s")

    def __init__(self, execution: Execution, done: Done, started_s: float) -> None:
        self.execution = execution
        self.key: Key = (execution.function, execution.digest)
        self.done = done
        self.started_s = started_s
        self.resident: Resident | None = None
        self.repeated = False
        """It was sent to a second resident, since nobody had read it at the first."""

    def outcome(self, resident: Resident, verdict: Verdict, ran_s: float, logs: bytes, now_s: float) -> Outcome:
        """How it ended, with what this resident cost it: boot and import are the first call's."""
        first = resident.calls <= 1
        return Outcome(
            kind=verdict.kind,
            result=verdict.result,
            error=verdict.error,
            evidence=verdict.evidence,
            timings=Timings(
                boot=round(resident.boot_ms, 3) if first else 0.0,
                import_=round(resident.import_ms, 3) if first else 0.0,
                run=round(ran_s * 1000, 3),
                total=round((now_s - self.started_s) * 1000, 3),
            ),
            receipt=resident.receipt,
            logs=logs,
            cold=first,
        )

    def cancelled_waiting(self, now_s: float) -> Outcome:
        """It was cancelled before any sandbox worked on it."""
        return Outcome(kind=OutcomeKind.CANCELLED, timings=Timings(total=round((now_s - self.started_s) * 1000, 3)))
