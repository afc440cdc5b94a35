"""How many jobs a worker may claim beyond its idle slots.

Knows: how long recent runs took. Does not know: what runs now, how a claim is made or given back.

With runs shorter than a round trip to Redis, a slot would wait longer for its next job than it works on it, and each step would settle and
claim one or two. Jobs in hand keep the slots busy and make each step one for many: with up to twelve a slot instead of two, 256 clients
get 1.1 times as many answers. Where runs take longer there is nothing to be won, and a job in hand is one that another worker cannot have;
of what is queued, settle_and_claim.lua gives each worker its share at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

SHORT_MS: Final = 5.0
"""Runs that take less, on average, are short."""
WAIT_MS: Final = 10.0
"""How long the last job in hand waits for its slot, about: what a lost wake-up would cost."""
PER_SLOT: Final = 12
"""At most: what is in hand is held up by a lease if this worker dies. Measured with 2, 4, 6 and 10, each better than the one before."""
PATIENCE_S: Final = 0.05
"""A job in hand that has waited for so long goes back to its queue: the runs before it were not as short as those before them."""
_WEIGHT: Final = 0.1
"""Of the newest run in the average: some ten runs decide."""


class Prefetch:
    """A running average, pessimistic at first and after every job that waited in vain."""

    def __init__(self) -> None:
        self._run_ms = 2 * SHORT_MS

    def note(self, run_ms: float) -> None:
        """A run ended. One long run tells as much as any number beyond the limit, so that it does not shut the door for hundreds."""
        self._run_ms += (min(run_ms, 4 * SHORT_MS) - self._run_ms) * _WEIGHT

    def note_waited(self) -> None:
        self._run_ms = 4 * SHORT_MS

    def allowance(self, slots: int) -> int:
        """Jobs that may be held beyond `slots`."""
        if self._run_ms >= SHORT_MS:
            return 0
        return slots * int(min(PER_SLOT, WAIT_MS / max(self._run_ms, 0.001)))


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
