"""Decide whether bytes are JSON text that every part of Sandlot, in every language, can read.

Knows: RFC 8259 and what Python and JavaScript make of its corners. Does not know: what the text means; nothing is built from it.
Plain text costs about 3 µs a kilobyte, and 10 to 30 ms at 6 MiB. Only what looks suspicious is looked at twice; the second look is exact.
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
"""Python refuses to read a longer integer (`sys.int_info.default_max_str_digits`), so a function could never see it."""

# Validates without building, in C. What it lets pass and we do not: bad UTF-8, numbers out of range, deep nesting.
_skim: Final = msgspec.json.Decoder(msgspec.Raw).decode

# One pass folds what the first look searches for: any digit is 0, either exponent letter is e, either opening bracket is [.
_FOLD: Final = bytes.maketrans(b"123456789E{", b"000000000e[")
_LONG_DIGITS: Final = b"0" * 290
"""Shorter than 308, the largest exponent of a double, less two digits of exponent: nothing with fewer digits can overflow by length."""

_NEITHER_BRACKET_NOR_QUOTE: Final = bytes(set(range(256)) - set(b'[]{}"'))
_STEP: Final = bytes(1 if byte in b"[{" else 255 for byte in range(256))
"""An opening bracket is one level down, a closing one (255 is -1 in a signed byte) one level up."""
_STRETCH: Final = 65_536
"""Brackets walked in one call into C, about a millisecond: between two of them another thread can run."""

_NUMBER: Final = re.compile(rb"-?[0-9][0-9.eE+-]*")
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)


def check_json(data: bytes, *, max_depth: int = MAX_DEPTH) -> None:
    """Pass if `data` is one JSON value that can be handed on as it is.

    Refused, beyond what RFC 8259 forbids: lone surrogates, a number that no double holds (`1e999`), an integer of more than
    4,300 digits, and more than `max_depth` arrays and objects inside one another.

    Raises:
        InvalidJson: what is wrong, and where if that is known.
    """
    try:
        _skim(data)
        if not data.isascii():
            data.decode()
    except UnicodeDecodeError as error:
        raise InvalidJson(f"not UTF-8 at byte {error.start}: JSON is sent as UTF-8 (RFC 8259, section 8.1)") from None
    except RecursionError:
        raise InvalidJson(_too_deep(max_depth)) from None
    except msgspec.DecodeError as error:
        raise InvalidJson(_explain(data, error)) from None
    large_numbers, brackets = _look(data) if len(data) <= CHUNK_BYTES else _look_in_pieces(data)
    if large_numbers:
        _check_numbers(data)
    if brackets > max_depth:
        _check_depth(data, max_depth)


def _look(data: bytes) -> tuple[bool, int]:
    """Whether a number may be too large, and how many arrays and objects there are at most (brackets in strings count as well)."""
    folded = data.translate(_FOLD)
    return b"e000" in folded or b"e+000" in folded or _LONG_DIGITS in folded, folded.count(b"[")


def _look_in_pieces(data: bytes) -> tuple[bool, int]:
    """What is cut between two pieces is seen in the overlap; brackets there count twice, which only makes the second look likelier."""
    looks = [_look(bytes(piece)) for piece in iter_chunks(data, overlap_bytes=len(_LONG_DIGITS))]
    return any(large for large, _ in looks), sum(brackets for _, brackets in looks)


def _explain(data: bytes, error: msgspec.DecodeError) -> str:
    if not data.strip():
        return "the text is empty; JSON needs a value (send null, or no body at all)"
    if data.startswith(b"\xef\xbb\xbf"):
        return "the text starts with a byte order mark; send plain UTF-8 (RFC 8259, section 8.1)"
    # An escaped backslash before a u does not escape a code unit.
    lone = _LONE_SURROGATE.search(data.replace(b"\\\\", b"  "))
    if lone:
        escape = data[lone.start() : lone.start() + 6].decode()
        return (
            f"lone surrogate {escape} at byte {lone.start()}: no UTF-8 text can hold it; escape both halves of the pair"
        )
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
                    f"an integer of {len(number)} digits; at most {MAX_INTEGER_DIGITS} can be read, send it as a string"
                )
        elif math.isinf(float(number)):
            raise InvalidJson(f"the number {number[:40].decode()} is larger than a double can hold")


def _check_depth(data: bytes, max_depth: int) -> None:
    # A string without brackets leaves two quotes side by side, and taking both out changes for no bracket whether it is in a string.
    marks = [bytes(piece).translate(None, _NEITHER_BRACKET_NOR_QUOTE) for piece in iter_chunks(_unescape_quotes(data))]
    skeleton = b"".join(marks).replace(b'""', b"")
    steps = b"".join(skeleton.split(b'"')[::2]).translate(_STEP)
    depth = 0
    for start in range(0, len(steps), _STRETCH):
        depths = list(accumulate(memoryview(steps)[start : start + _STRETCH].cast("b"), initial=depth))
        if max(depths) > max_depth:
            raise InvalidJson(_too_deep(max_depth))
        depth = depths[-1]


def _outside_strings(data: bytes) -> bytes:
    return b" ".join(_unescape_quotes(data).split(b'"')[::2])


def _unescape_quotes(data: bytes) -> bytes:
    """Valid JSON text without the escapes that matter here, so that every quote left in it delimits a string."""
    return data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data


def _too_deep(max_depth: int) -> str:
    return f"nested deeper than {max_depth} levels of arrays and objects"
