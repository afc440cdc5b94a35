"""Whether a caller has these bytes already, and which of them it wants: If-None-Match, Range, If-Range (RFC 9110, sections 13 and 14).

Knows: those three headers, for a value that never changes. Does not know: what the bytes are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from api.http.problems import Headers
from sandlot.errors import CallerError

_RANGE: Final = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


class Unsatisfiable(ValueError):
    """The range begins behind the end, or asks for the last 0 bytes."""


def has_already(headers: Mapping[str, str], etag: str) -> bool:
    """Whether If-None-Match names this value."""
    asked = headers.get("if-none-match", "")
    return any(one.strip().removeprefix("W/") in (etag, "*") for one in asked.split(","))


def wanted(headers: Mapping[str, str], etag: str, size_bytes: int) -> slice | None:
    """The part that Range asks for; nothing for the whole value, which is also the answer to a range of another unit, to several, and to one
    that If-Range binds to another value (section 14.2: a server may ignore Range).

    Raises:
        Unsatisfiable
    """
    found = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if found is None or headers.get("if-range", etag).strip() != etag:
        return None
    if found[3] is not None:
        start, end = max(0, size_bytes - int(found[3])), size_bytes
    else:
        start, end = int(found[1]), min(size_bytes, int(found[2]) + 1 if found[2] else size_bytes)
        if found[2] and int(found[2]) < start:
            return None  # not a range at all (section 14.1.1)
    if start >= size_bytes:
        raise Unsatisfiable
    return slice(start, end)


def etag(revision: str) -> Headers:
    return [(b"etag", f'"{revision}"'.encode())] if revision else []


def read_if_match(headers: Mapping[bytes, bytes]) -> str:
    """The revision that the caller insists on; "*" for any, empty without the header.

    Raises:
        CallerError: it is not one ETag, as a reply gave it.
    """
    text = headers.get(b"if-match", b"").decode("latin-1").strip()
    if text in ("", "*"):
        return text
    inner = text[1:-1]
    if len(text) < 3 or text[0] != '"' or text[-1] != '"' or '"' in inner:
        raise CallerError(f'If-Match: {text[:80]} is not one ETag; send back the one you got, as in "1795406400000000"')
    return inner
