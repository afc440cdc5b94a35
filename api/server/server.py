"""The certificate with which the API speaks HTTPS.

Knows: files in PEM, which TLS is spoken, how a renewed certificate is taken up. Does not know: sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import uvicorn

from api.app import Api
from api.server.protocol import Connections, FastProtocol
from sandlot.errors import InvalidSettings, PortTaken
from sandlot.settings import Settings

_log = logging.getLogger("sandlot.api")


class Tls:
    """TLS 1.2 and 1.3."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """
        Raises:
            InvalidSettings: a file cannot be read, is not what it should be, or the two do not belong together.
        """
        self._certificate, self._key = certificate, key
        self.context = _context()
        _load(self.context, certificate, key)

    @classmethod
    def of(cls, settings: Settings) -> Tls | None:
        """None if the settings name no certificate."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return cls(settings.tls_cert, settings.tls_key)

    def renew(self) -> None:
        """Read both files again: connections from now on get what they hold. What cannot be used changes nothing."""
        try:
            # Elsewhere first: a key that does not match would leave the context with half of each.
            _load(_context(), self._certificate, self._key)
            _load(self.context, self._certificate, self._key)
        except InvalidSettings as error:
            _log.error("certificate not renewed", extra={"reason": error.message})
            return
        _log.info("certificate renewed", extra={"path": str(self._certificate)})


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # Debian's Python leaves this to OpenSSL's configuration file.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        # An empty password, or OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else error.reason or str(error)  # type: ignore[attr-defined]
        raise InvalidSettings(
            f"cannot use the certificate {certificate} with the key {key}: {reason} (SANDLOT_TLS_CERT, SANDLOT_TLS_KEY)"
        ) from error


_BACKLOG: Final = 2048
_RELEASE_AT: Final = 0.8
"""When, within the grace, those who still wait are told where their job is; the rest of it is for sending that."""
_KEEP_ALIVE_S: Final = 30


class Server(uvicorn.Server):
    """uvicorn's server with three changes: waiting callers are released when it stops, a stop by signal is an exit like any other, and SIGHUP
    is an answer to a certificate that was renewed."""

    def __init__(self, api: Api, settings: Settings, alive_fd: int | None = None) -> None:
        """`alive_fd`: the read end of a pipe whose end means stop."""
        self._tls = tls = Tls.of(settings)
        super().__init__(
            uvicorn.Config(
                api.asgi,
                http=functools.partial(FastProtocol, Connections(settings)),  # type: ignore[arg-type]  # anything that makes protocols
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                ssl_context_factory=None if tls is None else lambda config, default: tls.context,
                # uvicorn only passes it to wait_for, which takes fractions; its annotation says int.
                timeout_graceful_shutdown=settings.shutdown_grace_s,  # type: ignore[arg-type]
            )
        )
        self._calls = api.calls
        self._grace_s = settings.shutdown_grace_s
        self._alive_fd = alive_fd

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, give callers most of the grace to get their answer, then tell them where it will be."""
        release = asyncio.get_running_loop().call_later(self._grace_s * _RELEASE_AT, self._calls.release)
        try:
            await super().shutdown(sockets)
        finally:
            release.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal again after the stop, before our connections are closed; a second one ends the grace."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        # SIGHUP asks a process that has no successor to read its certificate again, and one that has none to make room for a successor;
        # whoever supervises it starts that.
        loop.add_signal_handler(signal.SIGHUP, self._stop if self._tls is None else self._tls.renew)
        if self._alive_fd is not None:
            loop.add_reader(self._alive_fd, self._stop_alone, self._alive_fd)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _stop_alone(self, alive_fd: int) -> None:
        asyncio.get_running_loop().remove_reader(alive_fd)
        self._stop()

    def _stop(self) -> None:
        if self.should_exit:
            self._calls.release()
            self.force_exit = True
        self.should_exit = True


def listen(settings: Settings) -> socket.socket:
    """The listening socket; port 0 takes a free one.

    Raises:
        PortTaken: somebody else listens there.
        InvalidSettings: the address cannot be had at all.
    """
    where = f"{settings.host}:{settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"{where} is taken: something else listens there. Stop it, or choose another port (SANDLOT_PORT)"
            ) from error
        raise InvalidSettings(
            f"cannot listen on {where}: {error.strerror or error} (SANDLOT_HOST, SANDLOT_PORT)"
        ) from error


def url_of(listening: socket.socket, *, tls: bool = False) -> str:
    address: Any = listening.getsockname()
    host = f"[{address[0]}]" if listening.family == socket.AF_INET6 else address[0]
    return f"{'https' if tls else 'http'}://{host}:{address[1]}"
