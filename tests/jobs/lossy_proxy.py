"""A TCP proxy in front of Redis that swallows replies: the command is applied, its sender never hears of it."""

from __future__ import annotations

import asyncio
import contextlib


class LossyProxy:
    """Breaks the connection instead of forwarding the reply to the next `lose` requests that contain `marker`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.marker = b""
        self.lose = 0
        self.lost = 0

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        inner, outer = await asyncio.open_unix_connection(self._path)
        doomed = asyncio.Event()

        async def there() -> None:
            while data := await reader.read(1 << 20):
                if self.lose > 0 and self.marker in data:
                    self.lose -= 1
                    doomed.set()
                outer.write(data)

        async def back() -> None:
            while data := await inner.read(1 << 20):
                if doomed.is_set():
                    self.lost += 1
                    return
                writer.write(data)

        ways = [asyncio.create_task(there()), asyncio.create_task(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Closed before anything is waited for: `close` may cut the waiting short.
            for side in (writer, outer):
                side.close()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for side in (writer, outer):
                with contextlib.suppress(ConnectionError):
                    await side.wait_closed()
            self._tasks.discard(task)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
