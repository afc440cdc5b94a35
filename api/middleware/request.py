"""The outermost middleware: request ids, hot routes, metrics, access log, last-resort errors."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
from time import monotonic as monotonic_s
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.cycle import REPLY
from api.http.problems import CLIENT_GONE, Headers, problem, problem_of, send_reply
from api.metrics import FUNCTION, RequestMetrics
from api.middleware.audit import REFUSALS, RequestAudit
from api.middleware.tracing import RequestTracing
from api.operations.calls import CALL_BARE_URL, CALL_URL, INVOKE
from api.responses import HttpReply
from sandlot.errors import ShuttingDown

_log = logging.getLogger("sandlot.api")
_access = logging.getLogger("sandlot.access")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
_INVOKE_PREFIX, _INVOKE_SUFFIX = INVOKE.path.split("{name}")
_GATEWAY_PREFIX: Final = CALL_URL.path.removesuffix("{name}")
_NO_ROUTE: Final = "none"


class FastRoute(Protocol):
    """A hot route, which returns its reply instead of sending ASGI messages."""

    async def answer(self, scope: Scope, receive: Receive) -> HttpReply | None: ...


class RequestMiddleware:
    """An ASGI application that wraps the FastAPI app.

    It gives every reply an X-Request-Id, keeping the caller's own if that has only harmless
    characters, and answers every exception. The hot routes, invoke and the gateway under /fn, skip
    the app and so its routing, which saves 40 µs per call. They are routes of the app as well, so
    that routing knows their paths.
    """

    def __init__(
        self,
        app: ASGIApp,
        invoke: FastRoute,
        gateway: FastRoute,
        metrics: RequestMetrics,
        audit: RequestAudit,
        tracing: RequestTracing | None = None,
        *,
        access_log: bool = False,
    ) -> None:
        """
        Args:
            tracing: None to trace nothing.
            access_log: log a line for every reply.
        """
        self._app = app
        self._audit = audit
        self._tracing = tracing
        self._access_log = access_log
        self._metrics = metrics
        self._invoke = invoke
        self._gateway = gateway
        self._prefix = secrets.token_hex(8).encode()
        self._count = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = monotonic_s()
        if self._tracing is not None:
            self._tracing.begin(scope)
        request_id = self._request_id(scope)
        fast_route = self._fast_route(scope)
        if fast_route is None:
            await self._pass_on(scope, receive, send, request_id, began_s)
            return
        try:
            reply = await fast_route.answer(scope, receive)
        except asyncio.CancelledError:
            reply = _shutdown_reply(scope)
        except Exception:  # noqa: BLE001 - the outermost layer logs and answers every exception
            _log.exception("request failed: a bug", extra=_log_fields(scope, request_id))
            reply = _internal_error(scope, request_id)
        if reply is not None:
            status, headers, body = reply
            headers.append((b"x-request-id", request_id))
            if not (isinstance(body, bytes) and REPLY in scope and scope[REPLY](status, headers, body)):
                await send_reply(send, status, headers, body)
            self._observe_reply(scope, self._path_of(fast_route), status, headers, began_s)
            if status in REFUSALS or self._audit.records_calls:
                self._audit.record(scope, status, request_id, body if isinstance(body, bytes) else b"")
        elif self._tracing is not None:
            self._tracing.end(scope, self._path_of(fast_route), CLIENT_GONE, "")

    def _path_of(self, fast_route: FastRoute) -> str:
        return INVOKE.path if fast_route is self._invoke else CALL_URL.path

    def _observe_reply(self, scope: Scope, route: str, status: int, headers: Headers, began_s: float) -> None:
        """Count, log and trace a reply of which at least the head was sent."""
        function, took_s = scope.get(FUNCTION), monotonic_s() - began_s
        self._metrics.count_reply(route, scope["method"], status, function, took_s)
        if self._access_log:
            _log_access(scope, status, headers, function, took_s)
        if self._tracing is not None:
            self._tracing.end(scope, route, status, _header(headers, b"x-job-id"))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, request_id: bytes, began_s: float) -> None:
        started = False
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.body" and status:
                self._audit.record(scope, status, request_id, message.get("body", b""))
                status = 0
            if message["type"] == "http.response.start":
                started = True
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
                self._observe_reply(scope, _matched_path(scope), message["status"], message["headers"], began_s)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if started:
                raise
            await send_reply(send_with_id, *_shutdown_reply(scope))
        except Exception:
            _log.exception("request failed: a bug", extra=_log_fields(scope, request_id))
            if started:
                raise  # too late for a reply: the server closes the connection, so the caller sees a truncated body
            await send_reply(send_with_id, *_internal_error(scope, request_id))

    def _fast_route(self, scope: Scope) -> FastRoute | None:
        """Return a hot request's route and set its path parameters; None for other requests."""
        path: str = scope["path"]
        if scope["method"] == "POST" and path.endswith(_INVOKE_SUFFIX) and path.startswith(_INVOKE_PREFIX):
            name = path[len(_INVOKE_PREFIX) : -len(_INVOKE_SUFFIX)]
            if name and "/" not in name:
                scope["path_params"] = {"name": name}
                return self._invoke
        elif path.startswith(_GATEWAY_PREFIX) and len(path) > len(_GATEWAY_PREFIX):
            name, _, rest = path[len(_GATEWAY_PREFIX) :].partition("/")
            scope["path_params"] = {"name": name, "path": rest}
            return self._gateway
        return None

    def _request_id(self, scope: Scope) -> bytes:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return bytes(value)
        return b"%s-%x" % (self._prefix, next(self._count))


def _log_access(scope: Scope, status: int, headers: Headers, function: str | None, took_s: float) -> None:
    """Log a line for a reply, without the query, since callers put secrets there."""
    client = scope.get("client")
    line: dict[str, object] = {
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "took_ms": round(took_s * 1000, 3),
        "client": client[0] if client else "",
        "request_id": _header(headers, b"x-request-id"),
    }
    if function is not None:
        line["function"] = function
    if job_id := _header(headers, b"x-job-id"):
        line["job_id"] = job_id
    _access.info("request", extra=line)


def _header(headers: Headers, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key == name), "")


def _matched_path(scope: Scope) -> str:
    """Return the path of the matched route as the operation table has it.

    A path that any caller could invent must not become a label.
    """
    if "route" in scope:
        return str(scope["route"].path)
    return CALL_BARE_URL.path if FUNCTION in scope else _NO_ROUTE


def _shutdown_reply(scope: Scope) -> HttpReply:
    """Return the reply to a request cancelled by shutdown, usually one waiting for its body.

    Only the stopping server cancels requests, at the end of its grace period. The cancellation is
    not raised further: only the server would see it, and log it as a failure.
    """
    return problem_of(ShuttingDown("this server is stopping and could not finish this request"), instance=scope["path"])


def _log_fields(scope: Scope, request_id: bytes) -> dict[str, str]:
    return {"request_id": request_id.decode(), "method": scope["method"], "path": scope["path"]}


def _internal_error(scope: Scope, request_id: bytes) -> HttpReply:
    detail = "this is a bug in Sandlot, not in your request; the server's log has the details under this request id"
    members = {"request_id": request_id.decode()}
    return problem("internal_error", detail, instance=scope["path"], members=members)
