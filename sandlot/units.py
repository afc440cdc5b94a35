"""Durations and sizes as people write them (`"5s"`, `"256MiB"`), parsed and formatted."""

from __future__ import annotations

import re
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

_NUMBER: Final = re.compile(r"^(\d{1,12}(?:\.\d{1,6})?)\s?([A-Za-z]{1,4})$", re.ASCII)
_MS_PER_UNIT: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES_PER_UNIT: Final = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": 1024 * MIB}
_DECIMAL_SIZES: Final = {"K": "KiB", "KB": "KiB", "M": "MiB", "MB": "MiB", "G": "GiB", "GB": "GiB"}


def parse_duration(text: str) -> float:
    """Return the seconds, rounded to the millisecond.

    Raises:
        ValueError: the text is not a number followed by ms, s, m, h or d.
    """
    number, unit = _split(text, "duration", '"500ms", "5s" or "2m"')
    if unit not in _MS_PER_UNIT:
        raise ValueError(f'{text!r} has no unit of time: write ms, s, m, h or d, as in "5s"')
    return round(number * _MS_PER_UNIT[unit]) / 1000


def format_duration(seconds: float) -> str:
    """Return the shortest spelling that `parse_duration` reads back as the same value."""
    milliseconds = round(seconds * 1000)
    if milliseconds % 1000:
        return f"{milliseconds}ms"
    return f"{milliseconds // 1000}s"


def parse_size(text: str) -> int:
    """Return the number of bytes.

    Raises:
        ValueError: the text is not a number followed by B, KiB, MiB or GiB, or not a whole number
            of bytes.
    """
    number, unit = _split(text, "size", '"64KiB" or "256MiB"')
    if unit.upper() in _DECIMAL_SIZES:
        # AWS Lambda and ulimit mean MiB by MB, disk vendors do not: spell out which one is meant.
        raise ValueError(f"{text!r} is ambiguous: write {_DECIMAL_SIZES[unit.upper()]} (powers of 1024)")
    if unit not in _BYTES_PER_UNIT:
        raise ValueError(f'{text!r} has no unit of size: write B, KiB, MiB or GiB, as in "256MiB"')
    size = number * _BYTES_PER_UNIT[unit]
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_size(size_bytes: int) -> str:
    """Return the shortest spelling that `parse_size` reads back as the same value."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _BYTES_PER_UNIT[unit] == 0:
            return f"{size_bytes // _BYTES_PER_UNIT[unit]}{unit}"
    return f"{size_bytes}B"


def _split(text: str, noun: str, examples: str) -> tuple[float, str]:
    match = _NUMBER.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a {noun}: write {examples}")
    return float(match[1]), match[2]
