"""Scheduling of runs: idle instances, and the queue of runs that wait for an instance."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from sandlot.models import Outcome, OutcomeKind, Timings
from worker.execution import Execution, OnDone
from worker.pool.instance import Instance
from worker.pool.verdict import Verdict

Key = tuple[str, str]
"""Function and digest of a version."""


def key_of(instance: Instance) -> Key:
    return instance.spec.function, instance.spec.digest


class Run:
    """An execution from `Pool.start` to `on_done`. `instance` is None until one works on it."""

    __slots__ = ("execution", "instance", "key", "on_done", "repeated", "started_s")

    def __init__(self, execution: Execution, on_done: OnDone, started_s: float) -> None:
        self.execution = execution
        self.key: Key = (execution.function, execution.digest)
        self.on_done = on_done
        self.started_s = started_s
        self.instance: Instance | None = None
        self.repeated = False
        """True once it was sent to a second instance because the first had not read it."""

    def outcome(self, instance: Instance, verdict: Verdict, ran_s: float, logs: bytes, now_s: float) -> Outcome:
        """Return the outcome. An instance's first call is cold and includes boot and import."""
        first = instance.call_count <= 1
        return Outcome(
            kind=verdict.kind,
            result=verdict.result,
            error=verdict.error,
            evidence=verdict.evidence,
            timings=Timings(
                boot=round(instance.boot_ms, 3) if first else 0.0,
                import_=round(instance.import_ms, 3) if first else 0.0,
                run=round(ran_s * 1000, 3),
                total=round((now_s - self.started_s) * 1000, 3),
            ),
            receipt=instance.receipt,
            logs=logs,
            cold=first,
        )

    def cancelled_waiting(self, now_s: float) -> Outcome:
        """Return the outcome of a run that was cancelled before any instance worked on it."""
        return Outcome(kind=OutcomeKind.CANCELLED, timings=Timings(total=round((now_s - self.started_s) * 1000, 3)))


class IdleInstances:
    """Idle instances by version and by age.

    The most recently used instance of a version is taken first, so that the others age and are
    evicted.
    """

    def __init__(self) -> None:
        self._by_key: dict[Key, list[Instance]] = {}
        self._by_age: dict[int, Instance] = {}  # A dict keeps the order of insertion: oldest first.

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[Instance]:
        """Iterate over a copy, oldest first; instances may be removed meanwhile."""
        return iter(list(self._by_age.values()))

    def add(self, instance: Instance) -> None:
        """Add an instance as the most recently used one."""
        self._by_key.setdefault(key_of(instance), []).append(instance)
        self._by_age[id(instance)] = instance

    def pop(self, key: Key) -> Instance | None:
        """Remove and return the most recently used instance of a version."""
        found = self._by_key.get(key)
        if not found:
            return None
        instance = found.pop()
        if not found:
            del self._by_key[key]
        del self._by_age[id(instance)]
        return instance

    def discard(self, instance: Instance) -> None:
        """Remove an instance if it is idle."""
        if self._by_age.pop(id(instance), None) is None:
            return
        found = self._by_key[key_of(instance)]
        found.remove(instance)
        if not found:
            del self._by_key[key_of(instance)]

    def oldest(self) -> Instance | None:
        """Return the least recently used instance."""
        return next(iter(self._by_age.values()), None)


class WaitQueue:
    """Waiting runs by version, first come, first served.

    Each waiting run has at most one boot under way. A run served by a freed instance leaves its
    pending boot to the next run in line. Without that bound a busy version would boot once per
    call, though it never needs more instances than it has calls at once.
    """

    def __init__(self) -> None:
        self._runs: dict[Key, deque[Run]] = {}
        self._boots: dict[Key, int] = {}

    def add(self, key: Key, run: Run, *, first: bool = False) -> None:
        """Append a run, or put it first in line."""
        runs = self._runs.setdefault(key, deque())
        runs.appendleft(run) if first else runs.append(run)

    def pop(self, key: Key) -> Run | None:
        """Remove and return the run that has waited longest for this version."""
        runs = self._runs.get(key)
        if not runs:
            return None
        run = runs.popleft()
        if not runs:
            del self._runs[key]
        return run

    def discard(self, key: Key, run: Run) -> None:
        """Remove a run if it waits."""
        runs = self._runs.get(key)
        if runs and run in runs:
            runs.remove(run)
            if not runs:
                del self._runs[key]

    def begin_boot(self, key: Key) -> bool:
        """Count one more boot if there are fewer than waiting runs.

        Returns:
            True if a boot is needed; `end_boot` then has to follow.
        """
        boots = self._boots.get(key, 0)
        if boots >= len(self._runs.get(key, ())):
            return False
        self._boots[key] = boots + 1
        return True

    def end_boot(self, key: Key) -> None:
        """Count one boot less: it has become an instance, or has failed."""
        self._boots[key] -= 1
        if not self._boots[key]:
            del self._boots[key]
