"""The HTTP(S) server: uvicorn with a graceful stop and a certificate that can be renewed."""

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
from api.server.protocol import ConnectionLimits, FastProtocol
from sandlot.errors import InvalidSettings, PortTaken
from sandlot.settings import Settings

_log = logging.getLogger("sandlot.api")
_BACKLOG: Final = 2048
_RELEASE_AT: Final = 0.8
"""
The part of the grace period after which waiting callers get their jobs' addresses; the rest is for
sending these replies.
"""
_KEEP_ALIVE_S: Final = 30


class Tls:
    """A certificate and its key, in PEM, for TLS 1.2 and 1.3."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """
        Raises:
            InvalidSettings: a file cannot be read or parsed, or the key is for another certificate.
        """
        self._certificate, self._key = certificate, key
        self.context = _context()
        _load(self.context, certificate, key)

    @classmethod
    def of(cls, settings: Settings) -> Tls | None:
        """Return the certificate that the settings name; None if they name none."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return cls(settings.tls_cert, settings.tls_key)

    def renew(self) -> None:
        """Read both files again, for new connections. Files that cannot be used change nothing."""
        try:
            # First into another context: a key that does not match would leave half of each in this
            # one.
            _load(_context(), self._certificate, self._key)
            _load(self.context, self._certificate, self._key)
        except InvalidSettings as error:
            _log.error("certificate not renewed", extra={"reason": error.message})
            return
        _log.info("certificate renewed", extra={"path": str(self._certificate)})


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # Debian's Python leaves the minimum to OpenSSL's configuration file.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        # Without a password OpenSSL would prompt on the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is a subclass
        reason = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else error.reason or str(error)  # type: ignore[attr-defined]
        raise InvalidSettings(
            f"cannot use the certificate {certificate} with the key {key}: {reason} (SANDLOT_TLS_CERT, SANDLOT_TLS_KEY)"
        ) from error


class Server(uvicorn.Server):
    """uvicorn's server with three changes.

    Waiting callers are released when it stops; a stop by signal is a normal exit; SIGHUP renews the
    certificate.
    """

    def __init__(self, api: Api, settings: Settings, alive_fd: int | None = None) -> None:
        """
        Args:
            alive_fd: the read end of a pipe; when the pipe ends, the server stops. None for none.
        """
        self._tls = tls = Tls.of(settings)
        super().__init__(
            uvicorn.Config(
                api.asgi,
                http=functools.partial(FastProtocol, ConnectionLimits(settings)),  # type: ignore[arg-type]  # any factory works
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                ssl_context_factory=None if tls is None else lambda config, default: tls.context,
                # uvicorn passes it to wait_for, which accepts fractions, but annotates it as int.
                timeout_graceful_shutdown=settings.shutdown_grace_s,  # type: ignore[arg-type]
            )
        )
        self._invocations = api.invocations
        self._grace_s = settings.shutdown_grace_s
        self._alive_fd = alive_fd

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting; late in the grace period, send callers their jobs' addresses."""
        release = asyncio.get_running_loop().call_later(self._grace_s * _RELEASE_AT, self._invocations.release)
        try:
            await super().shutdown(sockets)
        finally:
            release.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGINT and SIGTERM; a second signal ends the grace period.

        uvicorn would raise the signal again after the stop, before the connections to Redis are
        closed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        # SIGHUP makes a process with a certificate read it again, and one without stop, so that its
        # supervisor starts a successor.
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
            self._invocations.release()
            self.force_exit = True
        self.should_exit = True


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket; port 0 means any free port.

    Raises:
        PortTaken: another process listens there.
        InvalidSettings: the address cannot be used at all.
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
                f"{where} is taken: another process listens there. Stop it, or choose another port (SANDLOT_PORT)"
            ) from error
        raise InvalidSettings(
            f"cannot listen on {where}: {error.strerror or error} (SANDLOT_HOST, SANDLOT_PORT)"
        ) from error


def url_of(listening: socket.socket, *, tls: bool = False) -> str:
    """Return the URL of a listening socket."""
    address: Any = listening.getsockname()
    host = f"[{address[0]}]" if listening.family == socket.AF_INET6 else address[0]
    return f"{'https' if tls else 'http'}://{host}:{address[1]}"
