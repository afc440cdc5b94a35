"""How many slots a worker has now, between two bounds.

Knows: how busy it was at its recent beats, whether work waits. Does not know: who runs the work, where machines come from.

It grows at once, by half, when every slot is taken and work waits; it shrinks slowly, since a burst is often followed by another. Whoever
adds machines looks at the queue as a whole (`sandlot_placement_queued` and its neighbours).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

PATIENCE_BEATS: Final = 30
"""So many beats (of a second) without need for a slot, and it goes."""


class Scaling:
    """Asked once per beat. With equal bounds nothing ever changes."""

    def __init__(
        self, least: int, most: int, has_memory: Callable[[], bool], *, patience_beats: int = PATIENCE_BEATS
    ) -> None:
        """`has_memory`: whether this machine can bear more sandboxes."""
        self.least = least
        self.most = most
        self._has_memory = has_memory
        self._busy: deque[int] = deque(maxlen=patience_beats)

    def slots_after(self, slots: int, busy: int, work_waits: bool) -> int:
        """How many there should be from now on."""
        self._busy.append(busy)
        if busy >= slots and work_waits:
            return min(self.most, slots + max(1, slots // 2)) if slots < self.most and self._has_memory() else slots
        if slots > self.least and len(self._busy) == self._busy.maxlen and (most_busy := max(self._busy)) < slots:
            self._busy.clear()  # each step down is waited for anew
            return max(self.least, (slots + most_busy) // 2)
        return slots
