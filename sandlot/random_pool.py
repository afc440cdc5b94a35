"""Pool of random bytes, drawn from the kernel in batches.

Each call of `os.urandom` costs 1 to 2 µs.
"""

from __future__ import annotations

import os
from typing import Final

_BATCH_SIZE: Final = 512


class RandomPool:
    """Source of values of `size_bytes` random bytes.

    `next` never returns a value twice, not even in a forked child.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._drawn: list[bytes] = []
        os.register_at_fork(after_in_child=self._drawn.clear)

    def next(self) -> bytes:
        if not self._drawn:
            size_bytes, drawn = self._size_bytes, os.urandom(self._size_bytes * _BATCH_SIZE)
            self._drawn.extend(drawn[start : start + size_bytes] for start in range(0, len(drawn), size_bytes))
        return self._drawn.pop()
