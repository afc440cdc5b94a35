"""Random bytes from the kernel, many at a time: each draw is a system call, 1 to 2 µs.

Knows: os.urandom. Does not know: what they are for.
"""

from __future__ import annotations

import os
from typing import Final

_AT_ONCE: Final = 512


class Draws:
    """`size_bytes` random bytes at each `next`, none of them twice, in no process that forks off this one either."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._drawn: list[bytes] = []
        os.register_at_fork(after_in_child=self._drawn.clear)

    def next(self) -> bytes:
        if not self._drawn:
            size_bytes, drawn = self._size_bytes, os.urandom(self._size_bytes * _AT_ONCE)
            self._drawn.extend(drawn[start : start + size_bytes] for start in range(0, len(drawn), size_bytes))
        return self._drawn.pop()
