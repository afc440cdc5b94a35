"""How Python's collector of cyclic garbage is set for a process that serves.

Knows: `gc`. Does not know: what the process does.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG_LIMIT: Final = 20_000
"""So many more new objects than deleted ones start a collection. With Python's 700, the calls in flight alone start one after the other,
which finds nothing and took 6 % of the API's CPU; what is garbage only by its cycles (exceptions, mostly) waits for some megabytes at most."""


def tune_gc() -> None:
    """To be called when a process has started: what is alive now stays, and need not be looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_LIMIT, 10, 10)
