"""One POST to somebody else's server, which may be hostile, slow, or not what its name says.

Knows: names are judged after they are resolved, the judged address is the one connected to, nobody is followed elsewhere, every wait ends.
Does not know: jobs, what is posted, tries.
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

ANSWER_LIMIT_S: Final = 20.0
"""From the name to the answer's last byte that is read; the specification advises 15 to 30 s."""
CONNECT_LIMIT_S: Final = 5.0
READ_LIMIT_BYTES: Final = 16 * 1024
"""Of an answer nobody reads; what comes beyond it ends the connection."""
USER_AGENT: Final = "sandlot-callback/1"


class WebhookReply(NamedTuple):
    """What the receiver said. `retry_after`: its header, as it stands; empty for none."""

    status: int
    retry_after: str


class NoReply(Exception):
    """Nobody took it; worth another try."""


class PublicOnlyBackend(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only: not to a name, and not to what it means a moment later."""

    def __init__(self, resolve: Resolve, is_reachable: Callable[[IpAddress], bool]) -> None:
        self._resolve = resolve
        self._is_reachable = is_reachable
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the name and the meaning are httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """
        Raises:
            CallbackRefused: the name has no public address.
            httpcore.ConnectError: it has none at all, or none of them accepts.
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
    """An async context manager. Connections are not kept: most receivers hear from us rarely, and an idle one would have to be judged again."""

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
            max_connections=None,  # the sender bounds them
            max_keepalive_connections=0,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()

    async def post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> WebhookReply:
        """
        Args:
            url: http or https, without user and fragment.

        Raises:
            NoReply: nobody answered in time, or not in HTTP; the message says what happened.
            CallbackRefused: it leads to an internal address.
        """
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                return await self._post(url, headers, body)
        except TimeoutError:
            raise NoReply(f"no answer within {ANSWER_LIMIT_S:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise NoReply(str(error) or type(error).__name__) from error

    async def _post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> WebhookReply:
        always = [("user-agent", USER_AGENT), ("content-type", "application/json")]
        limits = {"connect": CONNECT_LIMIT_S, "read": ANSWER_LIMIT_S, "write": ANSWER_LIMIT_S, "pool": ANSWER_LIMIT_S}
        async with self._pool.stream(
            "POST", url, headers=[*always, *headers], content=body, extensions={"timeout": limits}
        ) as answer:
            read_bytes = 0
            async for piece in answer.aiter_stream():
                read_bytes += len(piece)
                if read_bytes > READ_LIMIT_BYTES:
                    break
            found = {name.lower(): value for name, value in answer.headers}
            return WebhookReply(answer.status, found.get(b"retry-after", b"").decode("latin-1"))
