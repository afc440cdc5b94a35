"""Drain the output of a sandbox, keep a bounded part of it, and notice a flood.

The pipe is drained even when nothing more is kept: a function that prints must never block on a
full pipe, or it would time out for printing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

LINES_LIMIT: Final = 10_000
"""Lines kept of one invocation's output. A line of one byte costs a reader as much as a long
one."""

FLOOD_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Bytes printed by one invocation beyond which it is stopped. Reading 64 MiB from a full pipe takes
about 12 ms of a core that is shared."""

_READ_BYTES: Final = 64 * 1024
_READS_PER_WAKE: Final = 8
"""Reads before the event loop gets its turn: a flood from one sandbox must not delay the others."""

# One buffer for all pipes of the process: one callback of one thread fills and empties it.
_scratch: Final = memoryview(bytearray(_READ_BYTES))
_scratch_list: Final = [_scratch]


class LogPipe:
    """The output of one sandbox, from the read end `fd` of its pipe.

    The caller owns `fd` and closes it, after `close`. It decides with `take_output` where the
    output of one invocation ends.
    """

    def __init__(
        self, fd: int, limit_bytes: int, on_flood: Callable[[], None], loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._fd = fd
        self._limit_bytes = limit_bytes
        self._on_flood = on_flood
        self._loop = loop or asyncio.get_running_loop()
        self._open = True
        self._clear()
        self._loop.add_reader(fd, self._on_readable)

    def take_output(self) -> bytes:
        """Return the kept output since the last call, with a marker line if some was dropped.

        Reads the pipe first, a bounded number of times, as the process may keep printing.
        """
        if self._open:
            self._drain()
        if not self.printed_bytes:
            return b""
        kept = b"".join(self._kept)
        if self.printed_bytes > len(kept):
            kept += self._marker(len(kept), kept.endswith(b"\n") or not kept)
        self._clear()
        return kept

    def peek_output(self) -> bytes:
        """Return the output kept so far, without a marker, and keep it."""
        return b"".join(self._kept)

    def close(self) -> None:
        """Stop reading; the output kept so far can still be taken."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)

    def _clear(self) -> None:
        self._kept: list[bytes] = []
        self._room_bytes = self._limit_bytes
        self._room_lines = LINES_LIMIT
        self.printed_bytes = 0

    def _on_readable(self) -> None:
        self._drain()
        if self.printed_bytes > FLOOD_LIMIT_BYTES:
            self._on_flood()

    def _drain(self) -> None:
        for _ in range(_READS_PER_WAKE):
            try:
                got = os.readv(self._fd, _scratch_list)
            except BlockingIOError:
                return
            if got == 0:
                self.close()
                return
            self._append(got)
            if got < _READ_BYTES:
                return

    def _append(self, got: int) -> None:
        self.printed_bytes += got
        if self._room_bytes <= 0 or self._room_lines <= 0:
            return
        piece = bytes(_scratch[: min(got, self._room_bytes)])
        lines = piece.count(b"\n")
        if lines > self._room_lines:
            piece = b"\n".join(piece.split(b"\n", self._room_lines)[: self._room_lines]) + b"\n"
        self._room_bytes -= len(piece)
        self._room_lines -= lines
        self._kept.append(piece)

    def _marker(self, kept_bytes: int, at_line_start: bool) -> bytes:
        dropped = self.printed_bytes - kept_bytes
        limit = f"{self._limit_bytes} bytes" if self._room_lines > 0 else f"{LINES_LIMIT} lines"
        return f"{'' if at_line_start else chr(10)}[sandlot] {dropped} more bytes were printed; {limit} are kept\n".encode()
