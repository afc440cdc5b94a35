"""multipart/form-data (RFC 7578): the parts of a body that has arrived whole.

Knows: boundaries, part headers, how clients write file names. Does not know: what the parts are for.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from sandlot.errors import CallerError

_BOUNDARY: Final = re.compile(r";\s*boundary=(?:\"([^\"]{1,70})\"|([^\s;\"]{1,70}))", re.IGNORECASE)
_PARAMETER: Final = re.compile(r';\s*(name|filename)="((?:[^"\\]|\\.)*)"')
_HEADERS_LIMIT_BYTES: Final = 4096


class Part(msgspec.Struct, frozen=True):
    """`filename` is empty for a plain field; it is what the client wrote, a path or worse."""

    name: str
    filename: str
    content: bytes


def read_multipart(content_type: str, body: bytes, parts_limit: int) -> list[Part]:
    """
    Raises:
        CallerError: the body is not what its Content-Type says, or has too many parts.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise CallerError("multipart/form-data without a boundary in its Content-Type")
    delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
    pieces = (b"\r\n" + body).split(delimiter, parts_limit + 2)
    if len(pieces) > parts_limit + 2:
        raise CallerError(f"the body has more than {parts_limit} parts")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise CallerError(
            "the multipart body does not end with its boundary: it was cut short, or the boundary is wrong"
        )
    return [_part(number, piece) for number, piece in enumerate(pieces[1:-1], 1)]


def _part(number: int, piece: bytes) -> Part:
    head, separator, content = piece.partition(b"\r\n\r\n")
    if not separator or len(head) > _HEADERS_LIMIT_BYTES:
        raise CallerError(f"part {number} of the body has no end to its headers")
    try:
        lines = head.decode("utf-8").split("\r\n")
    except UnicodeDecodeError:
        raise CallerError(f"the headers of part {number} of the body are not UTF-8") from None
    disposition = next((line for line in lines if line.lower().startswith("content-disposition:")), "")
    parameters = {key: _unquoted(value) for key, value in _PARAMETER.findall(disposition)}
    if "name" not in parameters:
        raise CallerError(f"part {number} of the body has no name in its Content-Disposition")
    return Part(parameters["name"], parameters.get("filename", ""), content)


def _unquoted(text: str) -> str:
    """Browsers write a quote as %22, curl as \\"."""
    return re.sub(r"\\(.)", r"\1", text).replace("%22", '"')
