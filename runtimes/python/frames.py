"""Frames of `runtimes/PROTOCOL.md` on a blocking descriptor."""

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
"""Longest `E` or `K` body; the worker kills a process that sends more."""

TICKET_BYTES: Final = 8
_CONTEXT: Final = TICKET_BYTES + 4

_HEADER: Final = struct.Struct(">Ic")
BUFFER_BYTES: Final = 64 * 1024
"""One read gets header and body of almost every frame; a longer one gets a buffer of its own."""


class Closed(Exception):
    """The other side closed the socket, between two frames or inside one."""


class FrameSocket:
    """One descriptor that carries frames, one at a time in each direction.

    `receive` returns a view into a buffer that the next `receive` overwrites, so a caller must copy
    what it keeps.
    """

    def __init__(self, fd: int, buffer: bytearray | None = None) -> None:
        """
        Args:
            buffer: `BUFFER_BYTES` long, for this socket alone. Without it the socket allocates its
                own, which writes to every page of it.
        """
        self.fd = fd
        self._buffer = memoryview(bytearray(BUFFER_BYTES) if buffer is None else buffer)
        self._buffers = [self._buffer]

    def receive(self) -> tuple[bytes, memoryview]:
        """Wait for the next frame and return its type and body.

        Raises:
            Closed: the other side closed the socket, possibly inside a frame.
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

    def receive_command(self) -> tuple[bytes, int]:
        """Wait for a frame without a body; return its type and the descriptor that came with it.

        The descriptor is close-on-exec, the caller has to close it, and -1 stands for none.

        Raises:
            Closed: the other side closed the socket.
        """
        # Detached, not closed: this object does not own its descriptor.
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
            Closed: the other side closed the socket.
        """
        start = _HEADER.pack(len(ticket) + len(body), kind) + ticket
        try:
            sent = os.writev(self.fd, (start, body)) - len(start)
            # The start always fits into an empty socket buffer; only a long body needs more writes.
            while sent < len(body):
                sent += os.write(self.fd, memoryview(body)[sent:])
        except OSError as error:
            raise Closed from error


def split_request(body: memoryview) -> tuple[bytes, memoryview, memoryview]:
    """Split an `R` body into ticket, context and event; the latter two are JSON text."""
    event = _CONTEXT + int.from_bytes(body[TICKET_BYTES:_CONTEXT], "big")
    return bytes(body[:TICKET_BYTES]), body[_CONTEXT:event], body[event:]
