"""The span of a request, from its head to its reply.

Knows: OpenTelemetry's words for HTTP (semantic conventions). Does not know: exporters, what a route does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.types import Scope

from api.metrics import FUNCTION
from sandlot.tracing import Tracing, mark_failed, traceparent_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_UNTRACED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by machines every few seconds."""
_SPAN: Final = "sandlot.span"
_TRACEPARENT: Final = b"traceparent"


class RequestTraces:
    """The caller's traceparent is replaced by that of our span, so that whatever is made of the request continues it."""

    def __init__(self, tracing: Tracing) -> None:
        from opentelemetry.trace import SpanKind

        self._tracing = tracing
        self._kind = SpanKind.SERVER

    def begin(self, scope: Scope) -> None:
        if scope["path"] in _UNTRACED:
            return
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == _TRACEPARENT), "")
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        span = self._tracing.start_span(scope["method"], self._kind, given, attributes)
        scope[_SPAN] = span
        others = [header for header in scope["headers"] if header[0] != _TRACEPARENT]
        scope["headers"] = [*others, (_TRACEPARENT, traceparent_of(span).encode())]

    def end(self, scope: Scope, route: str, status: int, job_id: str) -> None:
        span: Span | None = scope.pop(_SPAN, None)
        if span is None:
            return
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        if job_id:
            span.set_attribute("sandlot.job_id", job_id)
        if function := scope.get(FUNCTION):
            span.set_attribute("faas.invoked_name", function)
        if status >= 500:
            mark_failed(span, f"HTTP {status}")
        span.end()
