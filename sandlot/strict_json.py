"""Strict check that bytes are JSON text which every part of Sandlot, in every language, can read.

The check follows RFC 8259 and excludes the corners that Python and JavaScript read differently. It
builds no values. Plain text costs about 3 µs per kilobyte, and 10 to 30 ms at 6 MiB. Only text that
looks suspicious in a first scan is checked a second time, exactly.
"""

from __future__ import annotations

import math
import re
from itertools import accumulate
from typing import Final

import msgspec

from sandlot.errors import InvalidJson
from sandlot.offload import CHUNK_BYTES, iter_chunks

MAX_DEPTH: Final = 200
MAX_INTEGER_DIGITS: Final = 4300
"""Python refuses to parse a longer integer (`sys.int_info.default_max_str_digits`), so no function
could receive it."""

# Validates in C without building values. It accepts three things that we refuse: invalid UTF-8,
# numbers out of range and deep nesting.
_validate: Final = msgspec.json.Decoder(msgspec.Raw).decode

# Folds what the first scan searches for: any digit becomes 0, E becomes e, { becomes [.
_FOLD: Final = bytes.maketrans(b"123456789E{", b"000000000e[")
_LONG_DIGITS: Final = b"0" * 290
"""Run of digits that may overflow a double.

It is shorter than 308, the largest exponent of a double, less two digits of exponent: a number with
fewer digits cannot overflow by its length.
"""

_NEITHER_BRACKET_NOR_QUOTE: Final = bytes(set(range(256)) - set(b'[]{}"'))
_STEP: Final = bytes(1 if byte in b"[{" else 255 for byte in range(256))
"""Change of depth per bracket: 1 for an opening one, 255 (-1 as a signed byte) for a
closing one."""
_BRACKETS_PER_CALL: Final = 65_536
"""Brackets processed by one call into C, about a millisecond; between two calls another thread can
run."""

_NUMBER: Final = re.compile(rb"-?[0-9][0-9.eE+-]*")
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)


def check_json(data: bytes, *, max_depth: int = MAX_DEPTH) -> None:
    """Check that `data` is one JSON value that can be passed on unchanged.

    Beyond what RFC 8259 forbids, this refuses lone surrogates, a number that exceeds a double
    (`1e999`), an integer of more than 4,300 digits, and more than `max_depth` nested arrays and
    objects.

    Raises:
        InvalidJson: the message says what is wrong, and where if that is known.
    """
    try:
        _validate(data)
        if not data.isascii():
            data.decode()
    except UnicodeDecodeError as error:
        raise InvalidJson(f"not UTF-8 at byte {error.start}: JSON is sent as UTF-8 (RFC 8259, section 8.1)") from None
    except RecursionError:
        raise InvalidJson(_too_deep(max_depth)) from None
    except msgspec.DecodeError as error:
        raise InvalidJson(_explain(data, error)) from None
    large_numbers, brackets = _scan(data) if len(data) <= CHUNK_BYTES else _scan_chunks(data)
    if large_numbers:
        _check_numbers(data)
    if brackets > max_depth:
        _check_depth(data, max_depth)


def _scan(data: bytes) -> tuple[bool, int]:
    """Return whether a number may be too large, and an upper bound of the nesting depth.

    The bound is the number of opening brackets, including those in strings.
    """
    folded = data.translate(_FOLD)
    return b"e000" in folded or b"e+000" in folded or _LONG_DIGITS in folded, folded.count(b"[")


def _scan_chunks(data: bytes) -> tuple[bool, int]:
    """Scan chunk by chunk, so that other threads can run in between.

    The overlap catches a number that is split between two chunks. Brackets there count twice, which
    at worst causes a needless second check.
    """
    scans = [_scan(bytes(chunk)) for chunk in iter_chunks(data, overlap_bytes=len(_LONG_DIGITS))]
    return any(large for large, _ in scans), sum(brackets for _, brackets in scans)


def _explain(data: bytes, error: msgspec.DecodeError) -> str:
    if not data.strip():
        return "the text is empty; JSON needs a value (send null, or no body at all)"
    if data.startswith(b"\xef\xbb\xbf"):
        return "the text starts with a byte order mark; send plain UTF-8 (RFC 8259, section 8.1)"
    # An escaped backslash before a u does not start an escape of a code unit.
    lone = _LONE_SURROGATE.search(data.replace(b"\\\\", b"  "))
    if lone:
        escape = data[lone.start() : lone.start() + 6].decode()
        return f"lone surrogate {escape} at byte {lone.start()}: UTF-8 cannot encode it; escape both halves of the pair"
    reason = (
        str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "the text ends too early")
    )
    return f"not JSON: {reason}; NaN and Infinity are not JSON either"


def _check_numbers(data: bytes) -> None:
    for found in _NUMBER.finditer(_outside_strings(data)):
        number = found.group()
        if number.lstrip(b"-").isdigit():
            if len(number) > MAX_INTEGER_DIGITS:
                raise InvalidJson(
                    f"an integer of {len(number)} digits; at most {MAX_INTEGER_DIGITS} are allowed, send it as a string"
                )
        elif math.isinf(float(number)):
            raise InvalidJson(f"the number {number[:40].decode()} is larger than a double can hold")


def _check_depth(data: bytes, max_depth: int) -> None:
    # A string without brackets leaves two adjacent quotes. Removing both does not change which
    # brackets are inside a string.
    marks = [bytes(chunk).translate(None, _NEITHER_BRACKET_NOR_QUOTE) for chunk in iter_chunks(_unescape_quotes(data))]
    skeleton = b"".join(marks).replace(b'""', b"")
    steps = b"".join(skeleton.split(b'"')[::2]).translate(_STEP)
    depth = 0
    for start in range(0, len(steps), _BRACKETS_PER_CALL):
        depths = list(accumulate(memoryview(steps)[start : start + _BRACKETS_PER_CALL].cast("b"), initial=depth))
        if max(depths) > max_depth:
            raise InvalidJson(_too_deep(max_depth))
        depth = depths[-1]


def _outside_strings(data: bytes) -> bytes:
    return b" ".join(_unescape_quotes(data).split(b'"')[::2])


def _unescape_quotes(data: bytes) -> bytes:
    """Return valid JSON text without escaped quotes and backslashes.

    Every remaining quote delimits a string.
    """
    return data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data


def _too_deep(max_depth: int) -> str:
    return f"nested deeper than {max_depth} levels of arrays and objects"
