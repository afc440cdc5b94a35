"""The egress proxy: the only way out for a function that asked for hosts (RFC 9110, RFC 9112).

The sandbox's network has a loopback device and nothing else. Init listens there and passes the
listening socket out, so a connection made inside is accepted here, in the worker. The proxy
resolves the name, judges the addresses and connects to an address it has judged, so that a name
cannot mean one thing when it is checked and another when it is used. It takes CONNECT and
absolute-form requests and does not look into a tunnel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from sandlot.network_policy import AllowList, IpAddress, Resolve, is_public, resolve

HEAD_LIMIT_BYTES: Final = 16 * 1024
HEAD_LIMIT_S: Final = 10.0
CONNECT_LIMIT_S: Final = 10.0
IDLE_LIMIT_S: Final = 120.0
CONNECTIONS_LIMIT: Final = 64
CHUNK_BYTES: Final = 64 * 1024

log: Final = logging.getLogger(__name__)


class RefusedRequest(Exception):
    """A request that the function may not make; `status` and the text are its response."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class EgressProxy:
    """The proxy of one sandbox. It owns the listening socket from `open` to `close`."""

    def __init__(
        self,
        allowed: tuple[str, ...],
        *,
        resolve: Resolve = resolve,
        is_reachable: Callable[[IpAddress], bool] = is_public,
    ) -> None:
        self._allowed = AllowList(allowed)
        self._resolve = resolve
        self._is_reachable = is_reachable
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.refusals: list[str] = []
        """The first 32 refusals, in order, for people who look for a reason."""

    async def open(self, proxy_fd: int) -> None:
        """Accept connections on the listening socket `proxy_fd`, which it takes over."""
        listener = socket.socket(fileno=proxy_fd)
        listener.setblocking(False)
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=HEAD_LIMIT_BYTES)

    def close(self) -> None:
        """Stop accepting and drop every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= CONNECTIONS_LIMIT:
            writer.close()
            return
        self._tasks.add(task)
        try:
            await self._serve_or_refuse(reader, writer)
        except* (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            # Either side went away, or was too slow, or sent too much: the connection ends, without
            # a message.
            log.debug("egress_ended", exc_info=True)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve_or_refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except RefusedRequest as refused:
            self._record_refusal(str(refused))
            await _send_refusal(writer, refused)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HEAD_LIMIT_S):
            head = await reader.readuntil(b"\r\n\r\n")
        request, _, rest = head.partition(b"\r\n")
        method, target = _parse_request_line(request)
        if method == "CONNECT":
            host, port = _parse_authority(target, default_port=None)
            greeting, opening = b"HTTP/1.1 200 Connection Established\r\n\r\n", b""
        else:
            host, port, opening = _rewrite_request(method, target, rest)
            greeting = b""
        upstream_reader, upstream_writer = await self._connect(host, port)
        try:
            writer.write(greeting)
            upstream_writer.write(opening)
            await _copy_both_ways(reader, writer, upstream_reader, upstream_writer)
        finally:
            upstream_writer.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to one of the host's addresses that was judged reachable.

        Raises:
            RefusedRequest: the host is not allowed, or has no reachable address that answers.
        """
        if not self._allowed.permits(host, port):
            raise RefusedRequest(
                "403 Forbidden",
                f"{host}:{port} is not in the function's allow list: {', '.join(self._allowed.entries)}",
            )
        async with asyncio.timeout(CONNECT_LIMIT_S):
            try:
                addresses = await self._resolve(host, port)
            except OSError as error:
                raise RefusedRequest("502 Bad Gateway", f"{host} cannot be resolved: {error.strerror}") from error
            reachable = [address for address in addresses if self._is_reachable(address)]
            if not reachable:
                raise RefusedRequest("403 Forbidden", f"{host} has no public address: {', '.join(map(str, addresses))}")
            for address in reachable:
                with contextlib.suppress(OSError):  # the next address may answer
                    return await asyncio.open_connection(str(address), port, limit=CHUNK_BYTES)
        raise RefusedRequest("502 Bad Gateway", f"{host}:{port} does not accept connections")

    def _record_refusal(self, refusal: str) -> None:
        if len(self.refusals) < 32:
            self.refusals.append(refusal)
        log.info("egress_refused", extra={"reason": refusal})


def _parse_request_line(line: bytes) -> tuple[str, str]:
    parts = line.decode("latin-1").split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise RefusedRequest("400 Bad Request", "not an HTTP/1.1 proxy request")
    return parts[0], parts[1]


def _parse_authority(text: str, default_port: int | None) -> tuple[str, int]:
    try:
        parsed = urlsplit("//" + text)
        host, port = parsed.hostname, parsed.port or default_port
    except ValueError as error:
        raise RefusedRequest("400 Bad Request", f"bad host {text!r}") from error
    if not host or port is None or parsed.username is not None or parsed.path:
        raise RefusedRequest("400 Bad Request", f"bad host {text!r}")
    return host, port


def _rewrite_request(method: str, target: str, headers: bytes) -> tuple[str, int, bytes]:
    """Rewrite a request in absolute form for its origin; return host, port and the new head.

    A connection carries one request, so that no second one can be smuggled behind it.
    """
    if not target.startswith("http://"):
        raise RefusedRequest("400 Bad Request", "this is a proxy: give it CONNECT or an http:// URL")
    authority, slash, path = target.removeprefix("http://").partition("/")
    host, port = _parse_authority(authority, default_port=80)
    kept = [
        line
        for line in headers.split(b"\r\n")
        if line and not line.lower().startswith((b"proxy-", b"connection:", b"keep-alive:", b"host:"))
    ]
    first = f"{method} {slash or '/'}{path} HTTP/1.1".encode("latin-1")
    return (
        host,
        port,
        b"\r\n".join([first, f"Host: {authority}".encode("latin-1"), b"Connection: close", *kept, b"", b""]),
    )


async def _copy_both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    upstream_reader: asyncio.StreamReader,
    upstream_writer: asyncio.StreamWriter,
) -> None:
    """Copy both ways until both sides have sent everything, or either is silent for too long."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_copy(reader, upstream_writer))
        group.create_task(_copy(upstream_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        async with asyncio.timeout(IDLE_LIMIT_S):
            chunk = await reader.read(CHUNK_BYTES)
            if not chunk:
                break
            writer.write(chunk)
            await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _send_refusal(writer: asyncio.StreamWriter, refused: RefusedRequest) -> None:
    body = f"{refused}\n".encode()
    head = f"HTTP/1.1 {refused.status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    with contextlib.suppress(OSError):  # the client did not wait for the response
        await writer.drain()
