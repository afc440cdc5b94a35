"""Drain what a sandbox prints, keep a bounded part, notice a flood.

Knows: one pipe's read end, bytes, lines. Does not know: what an invocation is; whoever calls `take_output` decides where one ends.

The pipe is drained even when nothing more is kept: a function that prints must never be blocked by us, or it would time out for printing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

LINES_LIMIT: Final = 10_000
"""Lines kept of one invocation's output; a line may be one byte long and still costs a reader a line."""

FLOOD_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Bytes printed by one invocation beyond which it is stopped: a full pipe is read in about 12 ms per 64 MiB, a shared core."""

_READ_BYTES: Final = 64 * 1024
_READS_PER_WAKE: Final = 8
"""Then the event loop is let go first: one sandbox that floods must not hold up the answers of others."""

# One buffer for all pipes of the process: it is filled and emptied within one callback of one thread.
_scratch: Final = memoryview(bytearray(_READ_BYTES))
_scratch_list: Final = [_scratch]


class LogPipe:
    """One sandbox's output. The owner of `fd` closes it, after `close`."""

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
        """What was printed since the last `take_output`, as far as it is kept, with a marker line if it is not all.

        Reads what is in the pipe now. A process that keeps printing meanwhile is read a bounded number of times.
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
        """What `take_output` would give now, without its marker, and without taking it."""
        return b"".join(self._kept)

    def close(self) -> None:
        """Stop watching; what was kept can still be taken."""
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
