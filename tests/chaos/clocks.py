"""A wall clock that is wrong, for one process.

Knows: libfaketime, which answers clock_gettime(2) and its kin in place of the C library. Does not know: whose clock it is.
A time namespace has no CLOCK_REALTIME of its own (time_namespaces(7)), and the machine's is everybody's. The library is loaded before the
C library of a process and changes what it believes the time to be, and nothing else: monotonic clocks are left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

PLACES: Final = tuple(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def why_not() -> str:
    """Why no clock can be wrong on this machine; empty if one can."""
    return "" if PLACES else "there is no libfaketime here (Debian: apt-get install libfaketime)"


def wrong_by(seconds: str) -> dict[str, str]:
    """What the environment of a process must have: its clock is `+600` or `-600` seconds off; nothing for an empty text."""
    if not seconds:
        return {}
    return {"LD_PRELOAD": str(PLACES[0]), "FAKETIME": seconds, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
