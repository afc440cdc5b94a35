"""Capacity of a worker: how many slots it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

SHRINK_AFTER_BEATS: Final = 30
"""Heartbeats (one a second) with an idle slot after which the worker gives slots up."""


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
