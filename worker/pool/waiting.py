"""Who waits for a sandbox of which version, and how many sandboxes are on their way.

Knows: order and counts. Does not know: what a run or a boot is.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from worker.pool.shelf import Key

Run = TypeVar("Run")


class Waiting(Generic[Run]):
    """First come, first served, by version.

    There is at most one boot under way for each that waits: who is served by a resident that came free leaves his boot to the next. Without
    that bound a busy version would boot once per call, though it never needs more residents than it has calls at once.
    """

    def __init__(self) -> None:
        self._runs: dict[Key, deque[Run]] = {}
        self._boots: dict[Key, int] = {}

    def add(self, key: Key, run: Run, *, first: bool = False) -> None:
        runs = self._runs.setdefault(key, deque())
        runs.appendleft(run) if first else runs.append(run)

    def next(self, key: Key) -> Run | None:
        """Who has waited longest for this version; he waits no more."""
        runs = self._runs.get(key)
        if not runs:
            return None
        run = runs.popleft()
        if not runs:
            del self._runs[key]
        return run

    def remove(self, key: Key, run: Run) -> None:
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
