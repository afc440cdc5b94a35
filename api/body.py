"""Read a request's body, counted as it arrives.

Knows: ASGI messages, limits. Does not know: what is in the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.types import Receive, Scope

from api.exchange import BODY
from sandlot.errors import CallerError, PayloadTooLarge

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
