"""What a check of this installation says: what was looked at, how it is, what was found, and what to do about it.

Knows: its fields. Does not know: any check.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Grade = Literal["ok", "warning", "failed"]


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at; the worker's doctor prints a list of these as JSON."""

    name: str
    grade: Grade
    found: str
    remedy: str = ""
