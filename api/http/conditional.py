"""Conditional and range requests: If-Match, If-None-Match, Range, If-Range.

RFC 9110, sections 13 and 14.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from api.http.problems import Headers
from sandlot.errors import CallerError

_RANGE: Final = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


class RangeNotSatisfiable(ValueError):
    """The range starts after the end, or asks for the last 0 bytes."""


def etag_matches(if_none_match: str, etag: str) -> bool:
    """Return whether an If-None-Match header names this ETag."""
    return any(one.strip().removeprefix("W/") in (etag, "*") for one in if_none_match.split(","))


def requested_range(headers: Mapping[str, str], etag: str, size_bytes: int) -> slice | None:
    """Return the part of a value that Range asks for; None for the whole value.

    A range of another unit, several ranges, and a range that If-Range ties to another ETag are
    ignored, as section 14.2 permits.

    Raises:
        RangeNotSatisfiable: see there.
    """
    found = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if found is None or headers.get("if-range", etag).strip() != etag:
        return None
    if found[3] is not None:
        start, end = max(0, size_bytes - int(found[3])), size_bytes
    else:
        start, end = int(found[1]), min(size_bytes, int(found[2]) + 1 if found[2] else size_bytes)
        if found[2] and int(found[2]) < start:
            return None  # an invalid range, to be ignored (section 14.1.1)
    if start >= size_bytes:
        raise RangeNotSatisfiable
    return slice(start, end)


def etag(revision: str) -> Headers:
    """Return the ETag header of a revision; no header if it is empty."""
    return [(b"etag", f'"{revision}"'.encode())] if revision else []


def read_if_match(if_match: str) -> str:
    """Return the revision in an If-Match header; "*" for any, empty without the header.

    Raises:
        CallerError: the header is not a single ETag as replies give it.
    """
    text = if_match.strip()
    if text in ("", "*"):
        return text
    inner = text[1:-1]
    if len(text) < 3 or text[0] != '"' or text[-1] != '"' or '"' in inner:
        raise CallerError(
            f'If-Match: {text[:80]} is not a single ETag; send back the one you got, as in "1795406400000000"'
        )
    return inner
