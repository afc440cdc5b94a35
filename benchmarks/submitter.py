"""A client that submits many events to one URL and keeps the replies.

It sends one request at a time on each of a few connections. A client library would use more CPU
than the server, on the same cores, and wrk cannot stop after a given number of requests.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import uvloop

LIMIT_S: Final = 60.0
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LOCATION: Final = re.compile(rb"\r\nlocation: *([^\r\n]+)", re.IGNORECASE)


class SubmitFailed(Exception):
    """A reply was not a 202 with a Location, or the server closed the connection."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The Location of each event's job, in the order submitted, and the duration of all submits."""

    locations: list[str]
    duration_s: float


def request_bytes(url: str, body: str) -> bytes:
    """Return an asynchronous invocation, as RFC 7240 asks for one."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nPrefer: respond-async\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def parse_reply(data: bytes) -> tuple[str, int] | None:
    """Return (Location, size of the whole reply), or None while the reply is incomplete.

    Raises:
        SubmitFailed: the reply is not a 202, or has no Location.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end]
    length = _LENGTH.search(head)
    size = end + 4 + (int(length[1]) if length else 0)
    if len(data) < size:
        return None
    status, location = _STATUS.match(head), _LOCATION.search(head)
    if status is None or status[1] != b"202" or location is None:
        raise SubmitFailed(f"not a 202 with a Location: {data[:400].decode(errors='replace')}")
    return location[1].decode(), size


class _Connection(asyncio.Protocol):
    """A connection that sends its next request as soon as the last one is answered.

    `done` is resolved when no request is left.
    """

    def __init__(self, request: bytes, indexes: Iterator[int], locations: list[str]) -> None:
        self._request = request
        self._indexes = indexes
        self._locations = locations
        self._received = b""
        self._index = 0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports do not inherit from it
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        index = next(self._indexes, None)
        if index is None:
            self._transport.close()
            self.done.set_result(None)
        else:
            self._index = index
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            parsed = parse_reply(self._received)
        except SubmitFailed as error:
            self._end(error)
            return
        if parsed is not None:
            self._locations[self._index], size = parsed
            self._received = self._received[size:]
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(SubmitFailed(f"the connection was lost: {exc}"))

    def _end(self, error: SubmitFailed) -> None:
        if not self.done.done():
            self.done.set_exception(error)


def submit(url: str, body: str, count: int, connections: int) -> Submitted:
    """Submit `count` events.

    Raises:
        SubmitFailed: a reply was not a 202.
        TimeoutError: it took longer than LIMIT_S.
    """
    return uvloop.run(asyncio.wait_for(_submit(url, body, count, connections), LIMIT_S))


async def _submit(url: str, body: str, count: int, connections: int) -> Submitted:
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    loop = asyncio.get_running_loop()
    locations, indexes, request = [""] * count, iter(range(count)), request_bytes(url, body)
    started_s = time.monotonic()
    opened = [
        await loop.create_connection(lambda: _Connection(request, indexes, locations), host, port)
        for _ in range(min(connections, count))
    ]
    try:
        await asyncio.gather(*(protocol.done for _, protocol in opened))
    finally:
        for transport, _ in opened:
            transport.close()
    return Submitted(locations, time.monotonic() - started_s)
