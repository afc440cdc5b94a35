"""A wrong wall clock for one process, by libfaketime.

libfaketime answers clock_gettime(2) and its relatives in place of the C library. A time namespace
has no CLOCK_REALTIME of its own (time_namespaces(7)), and the machine's clock is shared. The
library is loaded before a process's C library and changes its wall clock alone: monotonic clocks
stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

PLACES: Final = tuple(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def why_not() -> str:
    """Why no clock can be wrong on this machine; empty if one can."""
    return "" if PLACES else "libfaketime is not installed (Debian: apt-get install libfaketime)"


def wrong_by(seconds: str) -> dict[str, str]:
    """Return the environment that shifts a process's clock by `+600` or `-600` seconds.

    Empty for an empty text.
    """
    if not seconds:
        return {}
    return {"LD_PRELOAD": str(PLACES[0]), "FAKETIME": seconds, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
