"""Addresses of Redis (redis://, rediss://, unix://), TLS, connecting, and redis-py clients.

No error or log message of this module contains a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry as SyncRetry

from sandlot.errors import InvalidSettings, QueueUnavailable

CONNECT_TIMEOUT_S: Final = 3.0
"""A server that does not accept within this time counts as down; a start-up fails about as soon."""
LOOKUP_TIMEOUT_S: Final = 12.0
"""A resolver waits five seconds for a silent name server before it asks the next one, and asks each
twice (resolv.conf(5))."""
CALL_TIMEOUT_S: Final = 3.0
"""Redis answers within microseconds; after three seconds of silence it is stopped or
unreachable."""
CANCEL_AGAIN_S: Final = 0.1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL. `shown` has no credentials and may stand in logs and errors."""

    shown: str
    host: str
    port: int
    path: str
    db: int
    username: str
    password: str = field(repr=False)
    tls: ssl.SSLContext | None


def parse_address(url: str) -> Address:
    """Parse SANDLOT_REDIS_URL.

    Raises:
        InvalidSettings: it is not a Redis URL; the message shows no password.
    """
    try:
        parts = parse_url(url)
        shown = shown_url(url)
    except ValueError as error:
        raise InvalidSettings(
            f"SANDLOT_REDIS_URL cannot be read ({type(error).__name__}); use redis://, rediss:// or unix:///path/to.sock"
        ) from None
    fields: dict[str, Any] = dict(parts)
    return Address(
        shown=shown,
        host=fields.get("host", "localhost"),
        port=fields.get("port", 6379),
        path=fields.get("path", ""),
        db=fields.get("db", 0),
        username=fields.get("username") or "",
        password=fields.get("password") or "",
        tls=tls_context(fields) if fields.get("connection_class") is SSLConnection else None,
    )


def shown_url(url: str) -> str:
    """Return the URL without user, password and options."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def tls_context(fields: dict[str, Any]) -> ssl.SSLContext:
    """Build a TLS context from redis-py's URL options (`ssl_ca_certs`, `ssl_certfile`,
    `ssl_keyfile`, `ssl_cert_reqs=none`)."""
    context = ssl.create_default_context(cafile=fields.get("ssl_ca_certs"))
    if fields.get("ssl_certfile"):
        context.load_cert_chain(fields["ssl_certfile"], fields.get("ssl_keyfile"))
    if fields.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def open_transport(address: Address, protocol: asyncio.Protocol) -> None:
    """Connect `protocol` to the server.

    Raises:
        OSError, TimeoutError: the server cannot be reached.
    """
    loop = asyncio.get_running_loop()
    if address.path:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await loop.create_unix_connection(lambda: protocol, address.path)
        return
    failure: OSError = OSError(f"{address.host} has no address")
    for host in await _look_up(address.host, address.port):
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_connection(
                    lambda: protocol,
                    host,
                    address.port,
                    ssl=address.tls,
                    server_hostname=address.host if address.tls else None,
                )
        except OSError as error:  # TimeoutError is one
            failure = error
        else:
            return
    raise failure


_lookups: Final[dict[tuple[asyncio.AbstractEventLoop, str, int], asyncio.Task[list[str]]]] = {}


async def _look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host name.

    Looking up has a longer limit than connecting: a client that gives up before the resolver asks
    its second name server never reaches that one. A running lookup is shared, not abandoned: each
    holds a thread until it ends, and there are only four.

    Raises:
        OSError, TimeoutError: the name cannot be looked up.
    """
    if _is_address(host):
        return [host]
    key = (asyncio.get_running_loop(), host, port)
    if key not in _lookups:
        _lookups[key] = asyncio.ensure_future(_addresses(host, port))
        _lookups[key].add_done_callback(lambda task: _forget(key, task))
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S):
            return await asyncio.shield(_lookups[key])
    except TimeoutError:
        raise TimeoutError(f"the name {host} was not looked up within {LOOKUP_TIMEOUT_S:g} s") from None


def _forget(key: tuple[asyncio.AbstractEventLoop, str, int], task: asyncio.Task[list[str]]) -> None:
    del _lookups[key]
    if not task.cancelled():
        task.exception()  # Retrieved here too: perhaps no caller still waits for it.


async def _addresses(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _connect_timeout_s(url: str) -> float:
    """Return the limit for redis-py, which looks up and connects in one step."""
    address = parse_address(url)
    named = not address.path and not _is_address(address.host)
    return CONNECT_TIMEOUT_S + (LOOKUP_TIMEOUT_S if named else 0)


async def end_task(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task that calls redis-py until it has ended.

    One cancellation may not be enough: redis-py sends within `asyncio.wait_for`, which in Python
    3.11 loses a cancellation that arrives just as it returns.
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)


async def cancellable(calls: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that calls redis-py without losing a cancellation of the caller."""
    task = asyncio.ensure_future(calls)
    try:
        await asyncio.wait({task})
    finally:
        await end_task(task)
    return task.result()


@contextlib.asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """Raise redis-py's errors inside the block as QueueUnavailable."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise QueueUnavailable(f"Redis did not do what was asked: {error or type(error).__name__}") from error


def connect(url: str) -> redis.asyncio.Redis:
    """Make a redis-py client, for everything off the hot path. It never resends a command by
    itself: a resent command may be applied twice."""
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=CALL_TIMEOUT_S,
        socket_connect_timeout=_connect_timeout_s(url),
    )
    return client


def connect_blocking(url: str) -> redis.Redis:
    """Make a blocking redis-py client, for RQ's own classes and health checks."""
    parse_address(url)
    client: redis.Redis = redis.Redis.from_url(
        url,
        retry=SyncRetry(NoBackoff(), 0),
        socket_timeout=CALL_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
    )
    return client
