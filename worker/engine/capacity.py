"""Capacity of a worker: how many slots it has, and how many jobs it claims beyond idle slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

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
SHRINK_AFTER_BEATS: Final = 30
"""Heartbeats (one a second) with an idle slot after which the worker gives slots up."""
_NEWEST_RUN_WEIGHT: Final = 0.1
"""Share of the newest run in the average, so that about ten runs decide."""


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


class Scaling:
    """Autoscaler of a worker's slots between two bounds.

    Slots grow by half at once when all are busy and work waits. They shrink slowly, half way to the
    highest number that was busy meanwhile.
    """

    def __init__(
        self,
        min_slots: int,
        max_slots: int,
        has_memory: Callable[[], bool],
        *,
        shrink_after_beats: int = SHRINK_AFTER_BEATS,
    ) -> None:
        """
        Args:
            has_memory: returns whether this machine has memory for more sandboxes.
        """
        self._min_slots = min_slots
        self._max_slots = max_slots
        self._has_memory = has_memory
        self._busy: deque[int] = deque(maxlen=shrink_after_beats)

    def slots_after(self, slots: int, busy: int, work_waits: bool) -> int:
        """Return the number of slots from now on. The engine calls this once per heartbeat."""
        self._busy.append(busy)
        if busy >= slots and work_waits:
            can_grow = slots < self._max_slots and self._has_memory()
            return min(self._max_slots, slots + max(1, slots // 2)) if can_grow else slots
        if slots > self._min_slots and len(self._busy) == self._busy.maxlen and (most_busy := max(self._busy)) < slots:
            self._busy.clear()  # The next step down has to wait as long again.
            return max(self._min_slots, (slots + most_busy) // 2)
        return slots
