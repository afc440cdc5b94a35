"""A reply's body: bytes, or what yields them piece by piece.

Knows: how either is sent, and what is done when there is no next piece. Does not know: what the bytes are, where they come from.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Final

from starlette.types import Send

from sandlot.errors import SandlotError

log = logging.getLogger("sandlot.api")

CUT: Final = "sandlot.cut"
"""A message of ours to the server: the rest of this reply will not come. It closes the connection, by which the caller, who was told the
length, sees that what he has is not all."""

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
        await send({"type": CUT})
        return
    await send({"type": "http.response.body", "body": b""})
