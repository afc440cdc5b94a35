"""Request bodies (whole, within a limit and a deadline; multipart) and streamed reply bodies."""

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

_log = logging.getLogger("sandlot.api")

Body = bytes | AsyncIterator[bytes]
"""The body of a reply: whole, or chunks that are read while they are sent."""

DEADLINE_S: Final = 30.0
"""For the whole body: a client that trickles bytes holds a connection no longer than this."""
_DRAINED_BYTES: Final = 16 * 1024 * 1024
"""
How much of a refused body is read and dropped: a client whose connection closes while it sends
never sees the reply.
"""
_BOUNDARY: Final = re.compile(r";\s*boundary=(?:\"([^\"]{1,70})\"|([^\s;\"]{1,70}))", re.IGNORECASE)
_PARAMETER: Final = re.compile(r';\s*(name|filename)="((?:[^"\\]|\\.)*)"')
_HEADERS_LIMIT_BYTES: Final = 4096


class ClientGone(Exception):
    """The caller has disconnected; no reply can be sent."""


async def read_body(scope: Scope, receive: Receive, headers: Mapping[bytes, bytes], limit_bytes: int) -> bytes:
    """Return the whole body; at once, without a timer, if it has arrived already.

    Raises:
        PayloadTooLarge: the body is longer than the limit, whatever Content-Length says.
        CallerError: the body did not arrive within 30 s.
        ClientGone: the caller disconnected.
    """
    arrived: bytes | None = scope.get(BODY)
    if arrived is not None and len(arrived) <= limit_bytes:
        return arrived
    try:
        async with asyncio.timeout(DEADLINE_S):
            declared = headers.get(b"content-length", b"0")
            if declared.isdigit() and int(declared[:20]) > limit_bytes:
                if b"expect" not in headers:  # else the client sends nothing before it gets a 100
                    await _drain(receive)
                raise _too_large(limit_bytes)
            return await _receive_body(receive, limit_bytes)
    except TimeoutError:
        raise CallerError(f"the body did not arrive within {DEADLINE_S:g} s") from None


async def _receive_body(receive: Receive, limit_bytes: int) -> bytes:
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


class Part(msgspec.Struct, frozen=True):
    """One part of a multipart body.

    `filename` is empty for a plain field. It is what the client sent, possibly a hostile path.
    """

    name: str
    filename: str
    content: bytes


def read_multipart(content_type: str, body: bytes, parts_limit: int) -> list[Part]:
    """Return the parts of a multipart/form-data body (RFC 7578).

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
    """Return a quoted parameter as text. Browsers write a quote as %22, curl as \\"."""
    return re.sub(r"\\(.)", r"\1", text).replace("%22", '"')


async def start_stream(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Read the first chunk, and return all of them.

    An error that concerns the whole stream is thus raised before the head of the reply is sent.

    Raises:
        SandlotError: the first chunk cannot be read.
    """
    first = await anext(chunks, b"")

    async def all_chunks() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    return all_chunks()


async def send_stream(send: Send, chunks: AsyncIterator[bytes]) -> None:
    """Send the chunks after the head. A chunk is read once the server has accepted the last one."""
    try:
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except SandlotError as error:
        _log.warning("reply was cut short", extra={"code": error.code, "error": error.message})
        await send({"type": ABORT})
        return
    await send({"type": "http.response.body", "body": b""})
