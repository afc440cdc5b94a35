"""Read and write the frames of `runtimes/PROTOCOL.md` on a blocking descriptor.

Knows: lengths, types, partial reads and writes. Does not know: what a body means.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

INIT: Final = b"I"
READY: Final = b"K"
REQUEST: Final = b"R"
RESULT: Final = b"O"
ERROR: Final = b"E"
NEXT: Final = b"N"
JUDGE: Final = b"J"

ERROR_LIMIT_BYTES: Final = 256 * 1024
"""Longest `E` or `K` body; the worker ends a process that sends more."""

TICKET_BYTES: Final = 8
_CONTEXT: Final = TICKET_BYTES + 4

_HEADER: Final = struct.Struct(">Ic")
BUFFER_BYTES: Final = 64 * 1024
"""One read takes header and body of almost every frame; longer ones get a buffer of their own."""


class Closed(Exception):
    """The other side is gone, in the middle of a frame or between two."""


class Link:
    """Frames over one descriptor, one at a time.

    `receive` returns a view into a buffer that the next `receive` overwrites: whoever keeps anything copies it.
    """

    def __init__(self, fd: int, buffer: bytearray | None = None) -> None:
        """`buffer` is of `BUFFER_BYTES` and this link's alone from now on; without one it makes its own, and so writes to all of it."""
        self.fd = fd
        self._buffer = memoryview(bytearray(BUFFER_BYTES) if buffer is None else buffer)
        self._buffers = [self._buffer]

    def receive(self) -> tuple[bytes, memoryview]:
        """The next frame's type and body.

        Raises:
            Closed: the other side closed, or broke off inside a frame.
        """
        got = self._read(self._buffers)
        while got < 5:
            got += self._read([self._buffer[got:]])
        length, kind = _HEADER.unpack_from(self._buffer)
        end = length + 5
        if end <= BUFFER_BYTES:
            while got < end:
                got += self._read([self._buffer[got:]])
            return kind, self._buffer[5:end]
        return kind, self._long_body(length, got)

    def receive_order(self) -> tuple[bytes, int]:
        """The type of the next frame, one without a body, and the descriptor that came with it, -1 for none; close-on-exec, the caller's to close.

        Raises:
            Closed: the other side closed.
        """
        # Never closed: the descriptor is the link's owner's.
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=self.fd)
        try:
            header, descriptors, _, _ = socket.recv_fds(sock, _HEADER.size, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise Closed from error
        finally:
            sock.detach()
        if len(header) < _HEADER.size:
            raise Closed
        return header[-1:], descriptors[0] if descriptors else -1

    def _long_body(self, length: int, got: int) -> memoryview:
        body = memoryview(bytearray(length))
        filled = got - 5
        body[:filled] = self._buffer[5:got]
        while filled < length:
            filled += self._read([body[filled:]])
        return body

    def _read(self, buffers: list[memoryview]) -> int:
        try:
            got = os.readv(self.fd, buffers)
        except OSError as error:
            raise Closed from error
        if got == 0:
            raise Closed
        return got

    def send(self, kind: bytes, body: bytes | memoryview, ticket: bytes = b"") -> None:
        """Send one frame; `ticket` is the first part of its body.

        Raises:
            Closed: the other side is gone.
        """
        start = _HEADER.pack(len(ticket) + len(body), kind) + ticket
        try:
            sent = os.writev(self.fd, (start, body)) - len(start)
            # The start always fits into an empty socket buffer; only a long body is taken in parts.
            while sent < len(body):
                sent += os.write(self.fd, memoryview(body)[sent:])
        except OSError as error:
            raise Closed from error


def split_request(body: memoryview) -> tuple[bytes, memoryview, memoryview]:
    """Ticket, context and event of an `R` body; the latter two are JSON text."""
    event = _CONTEXT + int.from_bytes(body[TICKET_BYTES:_CONTEXT], "big")
    return bytes(body[:TICKET_BYTES]), body[_CONTEXT:event], body[event:]
