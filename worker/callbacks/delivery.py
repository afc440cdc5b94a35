"""The HTTP client for callbacks: one POST to a server that may be slow or hostile.

It guards against server-side request forgery: it checks the addresses that a name resolves to,
connects to a checked address and not to the name again, and follows no redirect. Every wait has a
time limit.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpcore
import httpx

from sandlot.errors import CallbackRefused
from sandlot.network_policy import IpAddress, Resolve, is_public, resolve

REPLY_LIMIT_S: Final = 20.0
"""For a whole POST, from resolving the name to the last byte read of the reply.

Standard Webhooks 1.0 advises 15 to 30 s.
"""
CONNECT_LIMIT_S: Final = 5.0
READ_LIMIT_BYTES: Final = 16 * 1024
"""The body of a reply is read and dropped; a longer one ends the connection."""
USER_AGENT: Final = "sandlot-callback/1"


class WebhookReply(NamedTuple):
    """The receiver's reply; `retry_after` is the header as received, empty if there is none."""

    status: int
    retry_after: str


class NoReply(Exception):
    """The receiver did not reply in HTTP, or not in time; worth another try."""


class PublicOnlyBackend(httpcore.AsyncNetworkBackend):
    """A network backend that connects to public addresses only.

    It connects to the addresses that it has checked, so a name that resolves differently a moment
    later (DNS rebinding) gains nothing.
    """

    def __init__(self, resolve: Resolve, is_reachable: Callable[[IpAddress], bool]) -> None:
        self._resolve = resolve
        self._is_reachable = is_reachable
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore defines this parameter
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """
        Raises:
            CallbackRefused: the name resolves to no public address.
            httpcore.ConnectError: the name does not resolve, or no address accepts.
            httpcore.ConnectTimeout: the last address tried did not accept in time.
        """
        try:
            addresses = await self._resolve(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error.strerror}") from error
        reachable = [address for address in addresses if self._is_reachable(address)]
        if not reachable:
            raise CallbackRefused(f"{host} has no public address: {', '.join(map(str, addresses))}")
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in reachable:
            try:
                return await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class WebhookClient:
    """An async context manager that posts callbacks.

    Connections are not kept alive: most receivers get a callback rarely, and the address behind an
    idle connection would have to be checked again.
    """

    def __init__(
        self,
        *,
        resolve: Resolve = resolve,
        is_reachable: Callable[[IpAddress], bool] = is_public,
        certificates: ssl.SSLContext | None = None,
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=certificates or httpx.create_ssl_context(),
            network_backend=PublicOnlyBackend(resolve, is_reachable),
            max_connections=None,  # the sender limits them
            max_keepalive_connections=0,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()

    async def post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> WebhookReply:
        """Send one POST and return the reply.

        Args:
            url: http or https, without user and fragment.

        Raises:
            NoReply: there was no reply in time, or not in HTTP; the message says what happened.
            CallbackRefused: the host has no public address.
        """
        try:
            async with asyncio.timeout(REPLY_LIMIT_S):
                return await self._post(url, headers, body)
        except TimeoutError:
            raise NoReply(f"no reply within {REPLY_LIMIT_S:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise NoReply(str(error) or type(error).__name__) from error

    async def _post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> WebhookReply:
        always = [("user-agent", USER_AGENT), ("content-type", "application/json")]
        limits = {"connect": CONNECT_LIMIT_S, "read": REPLY_LIMIT_S, "write": REPLY_LIMIT_S, "pool": REPLY_LIMIT_S}
        async with self._pool.stream(
            "POST", url, headers=[*always, *headers], content=body, extensions={"timeout": limits}
        ) as reply:
            read_bytes = 0
            async for piece in reply.aiter_stream():
                read_bytes += len(piece)
                if read_bytes > READ_LIMIT_BYTES:
                    break
            found = {name.lower(): value for name, value in reply.headers}
            return WebhookReply(reply.status, found.get(b"retry-after", b"").decode("latin-1"))
