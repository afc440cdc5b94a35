"""The outermost layer of the API: what holds for every request, whatever it asks for.

Knows: request ids, the hot routes' paths, what to say when we have a bug. Does not know: what any route does.
"""

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
from api.metrics import FUNCTION, ApiCounts
from api.middleware.audit import REFUSALS, Audit
from api.middleware.tracing import RequestTraces
from api.responses import Reply
from sandlot.errors import ShuttingDown

_log = logging.getLogger("sandlot.api")
_access = logging.getLogger("sandlot.access")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
_FUNCTIONS: Final = "/v1/functions/"
_INVOKE: Final = "/invoke"
_GATEWAY: Final = "/fn/"
INVOKE_ROUTE: Final = "/v1/functions/{name}/invoke"
GATEWAY_ROUTE: Final = "/fn/{name}"
BARE_ROUTE: Final = "/{name}"
NO_ROUTE: Final = "none"


class FastRoute(Protocol):
    """A route whose answer is a value."""

    async def answer(self, scope: Scope, receive: Receive) -> Reply | None: ...


class RequestMiddleware:
    """An ASGI application around the app: gives every reply its X-Request-Id and lets no exception reach the server.

    A caller's own X-Request-Id is kept if it is harmless. The two hot routes, `POST /v1/functions/{name}/invoke` and what is under /fn, go
    straight to `invoke` and `gateway`, which is worth 40 µs of routing a call; everything else goes to `app`, where the same paths have
    their place in routing.
    """

    def __init__(
        self,
        app: ASGIApp,
        invoke: FastRoute,
        gateway: FastRoute,
        counts: ApiCounts,
        audit: Audit,
        traces: RequestTraces | None = None,
        *,
        access_log: bool = False,
    ) -> None:
        """`access_log`: a line for every reply."""
        self._app = app
        self._audit = audit
        self._traces = traces
        self._access_log = access_log
        self._counts = counts
        self._invoke = invoke
        self._gateway = gateway
        self._prefix = secrets.token_hex(8).encode()
        self._count = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = monotonic_s()
        if self._traces is not None:
            self._traces.begin(scope)
        request_id = self._request_id(scope)
        hot = self._hot(scope)
        if hot is None:
            await self._pass_on(scope, receive, send, request_id, began_s)
            return
        try:
            reply = await hot.answer(scope, receive)
        except asyncio.CancelledError:
            reply = _stopped(scope)
        except Exception:  # noqa: BLE001 - the outermost layer: whatever it is, it is logged and answered
            _log.exception("request failed: a bug", extra=_about(scope, request_id))
            reply = _bug(scope, request_id)
        if reply is not None:
            status, headers, body = reply
            headers.append((b"x-request-id", request_id))
            if not (isinstance(body, bytes) and REPLY in scope and scope[REPLY](status, headers, body)):
                await send_reply(send, status, headers, body)
            self._note(scope, self._route_of(hot), status, headers, began_s)
            if status in REFUSALS or self._audit.calls:
                self._audit.saw(scope, status, request_id, body if isinstance(body, bytes) else b"")
        elif self._traces is not None:
            self._traces.end(scope, self._route_of(hot), CLIENT_GONE, "")

    def _route_of(self, hot: FastRoute) -> str:
        return INVOKE_ROUTE if hot is self._invoke else GATEWAY_ROUTE

    def _note(self, scope: Scope, route: str, status: int, headers: Headers, began_s: float) -> None:
        """A reply was sent, or its head was."""
        function, took_s = scope.get(FUNCTION), monotonic_s() - began_s
        self._counts.answered(route, scope["method"], status, function, took_s)
        if self._access_log:
            _log_access(scope, status, headers, function, took_s)
        if self._traces is not None:
            self._traces.end(scope, route, status, _header(headers, b"x-job-id"))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, request_id: bytes, began_s: float) -> None:
        started = False
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.body" and status:
                self._audit.saw(scope, status, request_id, message.get("body", b""))
                status = 0
            if message["type"] == "http.response.start":
                started = True
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
                self._note(scope, _route_of(scope), message["status"], message["headers"], began_s)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if started:
                raise
            await send_reply(send_with_id, *_stopped(scope))
        except Exception:
            _log.exception("request failed: a bug", extra=_about(scope, request_id))
            if started:
                raise  # too late for an answer: the server cuts the connection, which tells the caller that this one is not whole
            await send_reply(send_with_id, *_bug(scope, request_id))

    def _hot(self, scope: Scope) -> FastRoute | None:
        path: str = scope["path"]
        if scope["method"] == "POST" and path.endswith(_INVOKE) and path.startswith(_FUNCTIONS):
            name = path[len(_FUNCTIONS) : -len(_INVOKE)]
            if name and "/" not in name:
                scope["path_params"] = {"name": name}
                return self._invoke
        elif path.startswith(_GATEWAY) and len(path) > len(_GATEWAY):
            name, _, rest = path[len(_GATEWAY) :].partition("/")
            scope["path_params"] = {"name": name, "path": rest}
            return self._gateway
        return None

    def _request_id(self, scope: Scope) -> bytes:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return bytes(value)
        return b"%s-%x" % (self._prefix, next(self._count))


def _log_access(scope: Scope, status: int, headers: Headers, function: str | None, took_s: float) -> None:
    """One line per reply; the query is left out, since people put secrets there."""
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


def _route_of(scope: Scope) -> str:
    """As it stands in the table of routes; a path that anybody may make up is no label."""
    if "route" in scope:
        return str(scope["route"].path)
    return BARE_ROUTE if FUNCTION in scope else NO_ROUTE


def _stopped(scope: Scope) -> Reply:
    """Only the server's stop cancels a request, at the end of its grace: one whose body never came, most likely. The answer is its end;
    outside of us there is only the server, which would log the cancellation as a failure."""
    return problem_of(ShuttingDown("this server is stopping and could not finish this request"), instance=scope["path"])


def _about(scope: Scope, request_id: bytes) -> dict[str, str]:
    return {"request_id": request_id.decode(), "method": scope["method"], "path": scope["path"]}


def _bug(scope: Scope, request_id: bytes) -> Reply:
    detail = "this is a bug in Sandlot, not in your request; the server's log has it under this request id"
    members = {"request_id": request_id.decode()}
    return problem("internal_error", detail, instance=scope["path"], members=members)
