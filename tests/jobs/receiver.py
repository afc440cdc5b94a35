"""A server that callbacks are made to: it keeps what it was sent, and answers as it is told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True)
class Received:
    """One request, as it came. Header names are in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """On a free port of loopback, or at a listening socket."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: list[bytes] = []
        """To the requests that come next, in order; 204 when there are none left. Empty: none ever."""
        self.connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> Receiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.received.append(Received(line, headers, body))
            answer = self.answers.pop(0) if self.answers else b"HTTP/1.1 204 No Content\r\n\r\n"
            if not answer:
                await reader.read()  # until the other side has had enough
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side went away, which some tests are about
        finally:
            writer.close()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
