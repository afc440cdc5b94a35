"""A function's revision as an ETag, and If-Match (RFC 9110, section 13.1.1).

Knows: how both are written. Does not know: what a revision is.
"""

from __future__ import annotations

from collections.abc import Mapping

from api.errors import Headers
from sandlot.errors import CallerError


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
