"""One connection to Redis, in bytes and replies.

Knows: RESP2 (through hiredis), the greeting (AUTH, SELECT), coalesced writes. Does not know: which reply answers which call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

import hiredis

from sandlot.jobs.connection import Address, open_transport

Argument = bytes | str | int | float
"""What a command is made of; sent as text, bytes as they are."""
Reply = object
"""What hiredis makes of an answer: bytes, int, None, a list of these, or a `hiredis.ReplyError`."""

BACKOFFS_S: Final = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Between attempts to reconnect: quick for a restart, a second at most."""

LARGE_BYTES: Final = 65_536
"""An argument above is sent from where it is: hiredis takes 15 ms to copy 8 MB into one command, in which nothing else happens."""


class Wire(asyncio.Protocol):
    """A socket with a RESP parser on it. Writes of one loop tick leave in one send."""

    def __init__(self, on_reply: Callable[[Reply], None], on_lost: Callable[[], None]) -> None:
        self._reader = hiredis.Reader()
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._pending: list[bytes] = []
        self.swollen = False
        """The parser may hold the room that a large reply needed: it keeps it until it is fed again, which may be a second later."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses of asyncio's

    def data_received(self, data: bytes) -> None:
        reader, on_reply = self._reader, self._on_reply
        if len(data) > LARGE_BYTES:
            self.swollen = True
        reader.feed(data)
        try:
            reply = reader.gets()
            while reply is not False:
                on_reply(reply)
                reply = reader.gets()
        except hiredis.ProtocolError:
            # Not RESP: whatever is at the other end, nothing it says can be used.
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost()

    def shrink(self) -> None:
        """Let go of that room. Only for who knows that no part of another reply has arrived: it would be lost."""
        self._reader, self.swollen = hiredis.Reader(), False

    def send(self, *arguments: Argument) -> None:
        """Queue one command for this tick's write. A closed wire drops it: `on_lost` has told, or is about to tell, its owner."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pack(arguments)

    def send_now(self, *arguments: Argument) -> None:
        """The same without waiting for the end of the tick: for what already is everything of this tick. (Another round of the event loop
        is another system call.)"""
        self._pack(arguments)
        self._flush()

    def _pack(self, arguments: tuple[Argument, ...]) -> None:
        for argument in arguments:
            if type(argument) is bytes and len(argument) > LARGE_BYTES:
                self._pending.extend(_pack_in_parts(arguments))
                return
        self._pending.append(hiredis.pack_command(arguments))  # type: ignore[arg-type]  # its stub means a tuple of any length

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending and self._transport is not None:
            if len(pending) == 1:
                self._transport.write(pending[0])
            elif max(map(len, pending)) > LARGE_BYTES:
                self._transport.writelines(pending)
            else:
                self._transport.write(b"".join(pending))

    def close(self) -> None:
        """Drop the connection at once; `on_lost` follows."""
        if self._transport is not None:
            self._transport.abort()


def _pack_in_parts(arguments: tuple[Argument, ...]) -> list[bytes]:
    """One command as RESP2 writes it, its large arguments uncopied."""
    parts, small = [], b"*%d\r\n" % len(arguments)
    for argument in arguments:
        text = argument if isinstance(argument, bytes) else str(argument).encode()
        small += b"$%d\r\n" % len(text)
        if len(text) > LARGE_BYTES:
            parts += [small, text]
            small = b"\r\n"
        else:
            small += text + b"\r\n"
    return [*parts, small]


def greeting(address: Address) -> list[tuple[Argument, ...]]:
    """What is said before anything else; each is answered by `OK`."""
    commands: list[tuple[Argument, ...]] = []
    if address.password:
        commands.append(
            ("AUTH", address.username, address.password) if address.username else ("AUTH", address.password)
        )
    if address.db:
        commands.append(("SELECT", address.db))
    return commands


async def open_wire(address: Address, on_reply: Callable[[Reply], None], on_lost: Callable[[], None]) -> Wire:
    """A connected wire.

    Raises:
        OSError, TimeoutError: no connection.
    """
    wire = Wire(on_reply, on_lost)
    await open_transport(address, wire)
    return wire
