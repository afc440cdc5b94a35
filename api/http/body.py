"""multipart/form-data (RFC 7578): the parts of a body that has arrived whole.

Knows: boundaries, part headers, how clients write file names. Does not know: what the parts are for.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from api.http.cycle import ABORT, BODY
from sandlot.errors import CallerError, PayloadTooLarge, SandlotError

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


DEADLINE_S: Final = 30.0
"""For the whole body: a client that trickles bytes holds a connection, and costs nothing else, no longer than this."""
_DRAINED_BYTES: Final = 16 * 1024 * 1024
"""How much of a body that is refused anyway is still read (and dropped): a client that is cut off while sending never sees the answer."""


class ClientGone(Exception):
    """The caller hung up; there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, headers: Mapping[bytes, bytes], limit_bytes: int) -> bytes:
    """The whole body; without a wait, and a timer for it, if it is there.

    Raises:
        PayloadTooLarge: it is longer than the limit, whatever Content-Length says.
        CallerError: it did not arrive in time.
        ClientGone: the caller hung up.
    """
    arrived: bytes | None = scope.get(BODY)
    if arrived is not None and len(arrived) <= limit_bytes:
        return arrived
    try:
        async with asyncio.timeout(DEADLINE_S):
            declared = headers.get(b"content-length", b"0")
            if declared.isdigit() and int(declared[:20]) > limit_bytes:
                if b"expect" not in headers:  # else the client waits for our word before it sends anything
                    await _drain(receive)
                raise _too_large(limit_bytes)
            return await _read(receive, limit_bytes)
    except TimeoutError:
        raise CallerError(f"the body did not arrive within {DEADLINE_S:g} s") from None


async def _read(receive: Receive, limit_bytes: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False) and len(body) <= limit_bytes:
        return body
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            chunks.clear()
            if message.get("more_body", False):
                await _drain(receive)
            raise _too_large(limit_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()


async def _drain(receive: Receive) -> None:
    drained = 0
    while drained < _DRAINED_BYTES:
        message = await receive()
        drained += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body is larger than {limit_bytes} bytes; send a reference to the data instead", limit_bytes=limit_bytes
    )


log = logging.getLogger("sandlot.api")


Body = bytes | AsyncIterator[bytes]


async def begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, the first of which is here already: whatever is wrong with all of them is still answered.

    Raises:
        SandlotError: as the first piece does.
    """
    first = await anext(pieces, b"")

    async def all_of_them() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return all_of_them()


async def send_pieces(send: Send, pieces: AsyncIterator[bytes]) -> None:
    """After the head; the next piece is asked for when the server has taken the one before."""
    try:
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except SandlotError as error:
        log.warning("reply was cut short", extra={"code": error.code, "error": error.message})
        await send({"type": ABORT})
        return
    await send({"type": "http.response.body", "body": b""})
