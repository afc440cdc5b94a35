"""The worker's own HTTP server, which serves /metrics to Prometheus.

It runs on the worker's event loop, so a scrape sees one moment. A thread formats the text.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final

import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from sandlot.errors import InvalidSettings, PortTaken
from sandlot.metrics import CONTENT_TYPE, Family, is_metrics_token, render
from sandlot.settings import is_loopback

_log: Final = logging.getLogger(__name__)
_KEEP_ALIVE_S: Final = 75
"""Longer than any usual scrape interval, so that Prometheus can reuse its connection."""


@contextlib.asynccontextmanager
async def open_listener(
    host: str, port: int, token: str, families: Callable[[], Sequence[Family]]
) -> AsyncIterator[None]:
    """Serve until the end of the block; port 0 takes a free one.

    Raises:
        InvalidSettings: without a token the host must be a loopback address.
        PortTaken: the address cannot be listened on.
    """
    if not token and not is_loopback(host):
        raise InvalidSettings(
            f"metrics on {host} without a token would show the names of functions to the network; "
            "set SANDLOT_METRICS_TOKEN, or listen on 127.0.0.1 (SANDLOT_METRICS_HOST)"
        )
    with _listen(host, port) as listening:
        server = _Server(
            uvicorn.Config(
                _Metrics(token, families),
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=1,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listening]), name="metrics")
        _log.info("metrics", extra={"url": "http://{}:{}/metrics".format(*listening.getsockname()[:2])})
        try:
            yield
        finally:
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers to the engine."""
        yield


class _Metrics:
    """The ASGI application, which checks the token."""

    def __init__(self, token: str, families: Callable[[], Sequence[Family]]) -> None:
        self._token = token
        self._families = families

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(Request(scope))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if request.url.path != "/metrics":
            return PlainTextResponse("there is only /metrics here\n", 404)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("/metrics takes GET\n", 405, {"allow": "GET, HEAD"})
        if self._token and not is_metrics_token(request.headers.get("authorization", ""), self._token):
            needed = "this needs Authorization: Bearer and the worker's SANDLOT_METRICS_TOKEN\n"
            return PlainTextResponse(needed, 401, {"www-authenticate": 'Bearer realm="sandlot"'})
        text = await asyncio.to_thread(render, self._families())
        return Response(text, media_type=CONTENT_TYPE)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        raise PortTaken(
            f"cannot serve metrics on {host}:{port}: {error.strerror or error}. Every worker of a machine needs its own port"
            " (SANDLOT_METRICS_PORT, SANDLOT_METRICS_HOST)"
        ) from error
