"""The figures of a run, and their medians over its rounds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True)
class Served:
    """One cell in one round.

    `failed` says why its figures do not count: a wrong answer, or any reply that was not a success.
    """

    contender: str
    cell: str
    round: int
    requests: int = 0
    per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_s_per_1000: float = 0.0
    memory_mib: float = 0.0
    memory_exact: bool = True
    errors: int = 0
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Drained:
    """One queue filled and emptied in one round.

    `workload` is `noop`, or `cpu/N` with N workers of one slot each.
    """

    contender: str
    workload: str
    round: int
    jobs: int = 0
    submit_per_s: float = 0.0
    drain_per_s: float = 0.0
    failed: str = ""


@dataclass(slots=True)
class Results:
    """Everything that one run measured."""

    served: list[Served] = field(default_factory=list)
    drained: list[Drained] = field(default_factory=list)

    def cell(self, contender: str, cell: str) -> Served | None:
        """Return the medians of one cell over the rounds, or None if it was not measured.

        A cell that failed in any round is returned as failed.
        """
        rounds = [row for row in self.served if (row.contender, row.cell) == (contender, cell)]
        if not rounds:
            return None
        for row in rounds:
            if row.failed:
                return row
        return Served(
            contender=contender,
            cell=cell,
            round=0,
            requests=sum(row.requests for row in rounds),
            per_s=median(row.per_s for row in rounds),
            p50_ms=median(row.p50_ms for row in rounds),
            p99_ms=median(row.p99_ms for row in rounds),
            cpu_s_per_1000=median(row.cpu_s_per_1000 for row in rounds),
            memory_mib=median(row.memory_mib for row in rounds),
            memory_exact=all(row.memory_exact for row in rounds),
        )

    def drain(self, contender: str, workload: str) -> Drained | None:
        """Return the medians of one drain over the rounds, like `cell`."""
        rounds = [row for row in self.drained if (row.contender, row.workload) == (contender, workload)]
        if not rounds:
            return None
        for row in rounds:
            if row.failed:
                return row
        return Drained(
            contender=contender,
            workload=workload,
            round=0,
            jobs=min(row.jobs for row in rounds),
            submit_per_s=median(row.submit_per_s for row in rounds),
            drain_per_s=median(row.drain_per_s for row in rounds),
        )


def best(values: Iterable[tuple[float, str]]) -> tuple[float, str] | None:
    """Return the largest figure and its contender, or None without any figure."""
    return max(values, default=None)
