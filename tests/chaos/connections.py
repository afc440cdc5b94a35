"""Kept connections to one HTTP server on loopback.

They are cheap enough for hundreds of requests a second during a fault, and understand only as much
of HTTP/1.1 as the API replies with. They never decide whether a request may be repeated.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Unanswered(Exception):
    """The connection could not be made, broke, or said nothing for a minute; `str` says which."""


class ClosedWhileIdle(Unanswered):
    """A kept connection ended before a byte of the reply came.

    Every HTTP client must expect that of a server that stops (RFC 9112, 9.3.1).
    """


class Connections:
    """Opened when needed, kept for the next request, closed by `close`."""

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        self._port = port
        self._headers = dict(headers)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """
        Raises:
            Unanswered: it may have arrived all the same.
        """
        reused = bool(self._idle)
        reader, writer = self._idle.pop() if reused else await self._open()
        try:
            answer = await self._exchange(reader, writer, method, path, headers, body, reused)
        except BaseException:
            writer.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return answer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as error:
            raise Unanswered(type(error).__name__) from error

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        reused: bool,
    ) -> Answer:
        fields = {"host": "localhost", **self._headers, **headers, "content-length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        first = b""
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                first = await reader.readuntil(b"\r\n\r\n")
                return await _rest(first, reader)
        except (OSError, asyncio.IncompleteReadError) as error:
            partial = getattr(error, "partial", b"")
            if reused and not first and not partial and not isinstance(error, TimeoutError):
                raise ClosedWhileIdle("ClosedWhileIdle") from error
            raise Unanswered(type(error).__name__) from error

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def _rest(head: bytes, reader: asyncio.StreamReader) -> Answer:
    status, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))  # a 204 has none
    return Answer(int(status.split()[1]), headers, body)
