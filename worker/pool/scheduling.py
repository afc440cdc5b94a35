"""One execution between `start` and `done`.

Knows: what belongs to it and how an outcome is put together. Does not know: who runs it next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sandlot.errors import SandlotError
from sandlot.models import Outcome, OutcomeKind, Timings
from worker.execution import Execution
from worker.pool.instance import Instance
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
        self.resident: Instance | None = None
        self.repeated = False
        """It was sent to a second resident, since nobody had read it at the first."""

    def outcome(self, resident: Instance, verdict: Verdict, ran_s: float, logs: bytes, now_s: float) -> Outcome:
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


Key = tuple[str, str]
"""Function and digest."""


class IdleInstances:
    """The most recently used resident of a version is taken first, so that the others can grow old and go."""

    def __init__(self) -> None:
        self._by_key: dict[Key, list[Instance]] = {}
        self._by_age: dict[int, Instance] = {}  # A dict keeps the order of insertion: the first is the oldest.

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[Instance]:
        """Oldest first; a copy, so that whoever iterates may remove."""
        return iter(list(self._by_age.values()))

    def put(self, resident: Instance) -> None:
        self._by_key.setdefault(key_of(resident), []).append(resident)
        self._by_age[id(resident)] = resident

    def take(self, key: Key) -> Instance | None:
        found = self._by_key.get(key)
        if not found:
            return None
        resident = found.pop()
        if not found:
            del self._by_key[key]
        del self._by_age[id(resident)]
        return resident

    def remove(self, resident: Instance) -> bool:
        """False if it was not here."""
        if self._by_age.pop(id(resident), None) is None:
            return False
        found = self._by_key[key_of(resident)]
        found.remove(resident)
        if not found:
            del self._by_key[key_of(resident)]
        return True

    def oldest(self) -> Instance | None:
        return next(iter(self._by_age.values()), None)


def key_of(resident: Instance) -> Key:
    return resident.spec.function, resident.spec.digest


Waiter = TypeVar("Waiter")


class WaitQueue(Generic[Waiter]):
    """First come, first served, by version.

    There is at most one boot under way for each that waits: who is served by a resident that came free leaves his boot to the next. Without
    that bound a busy version would boot once per call, though it never needs more residents than it has calls at once.
    """

    def __init__(self) -> None:
        self._runs: dict[Key, deque[Waiter]] = {}
        self._boots: dict[Key, int] = {}

    def add(self, key: Key, run: Waiter, *, first: bool = False) -> None:
        runs = self._runs.setdefault(key, deque())
        runs.appendleft(run) if first else runs.append(run)

    def next(self, key: Key) -> Waiter | None:
        """Who has waited longest for this version; he waits no more."""
        runs = self._runs.get(key)
        if not runs:
            return None
        run = runs.popleft()
        if not runs:
            del self._runs[key]
        return run

    def remove(self, key: Key, run: Waiter) -> None:
        """He no longer wants it; nothing happens if he does not wait."""
        runs = self._runs.get(key)
        if runs and run in runs:
            runs.remove(run)
            if not runs:
                del self._runs[key]

    def begin_boot(self, key: Key) -> bool:
        """Whether another boot is needed; if so it counts as begun, and `end_boot` is due."""
        boots = self._boots.get(key, 0)
        if boots >= len(self._runs.get(key, ())):
            return False
        self._boots[key] = boots + 1
        return True

    def end_boot(self, key: Key) -> None:
        """A boot has become a resident, or has failed."""
        self._boots[key] -= 1
        if not self._boots[key]:
            del self._boots[key]
