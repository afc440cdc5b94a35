"""A TCP proxy in front of Redis that drops the reply to a chosen command, or goes silent.

It recognises a command by a marker in its bytes (a script's SHA), not by its meaning.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

CHUNK_BYTES: Final = 1 << 20


class Proxy:
    """Listens on loopback, forwards to one port there."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._marker = b""
        self._left = 0
        self.swallowed = 0
        """How many replies its clients never saw."""
        self.on_swallowed: Callable[[], None] = lambda: None
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def lose(self, marker: bytes, times: int = 1) -> None:
        """Execute the next commands with this marker; close the connection without a reply."""
        self._marker, self._left = marker, times

    @property
    def to_lose(self) -> int:
        return self._left

    def cut(self) -> None:
        """Pass nothing in either direction and report no error, like a cut cable."""
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except OSError:
            pass  # Redis is not there: the client sees its connection end, as it would without us
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._to)
        doomed = asyncio.Event()

        async def there() -> None:
            while data := await reader.read(CHUNK_BYTES):
                await self._open.wait()
                if self._left > 0 and self._marker in data:
                    self._left -= 1
                    doomed.set()
                redis_writer.write(data)

        async def back() -> None:
            while data := await redis_reader.read(CHUNK_BYTES):
                await self._open.wait()
                if doomed.is_set():
                    self.swallowed += 1
                    self.on_swallowed()
                    return
                writer.write(data)

        ways = [asyncio.create_task(there()), asyncio.create_task(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            redis_writer.close()
            with contextlib.suppress(OSError):
                await redis_writer.wait_closed()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
