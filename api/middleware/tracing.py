"""A span for each request, from its head to its reply.

Names and attributes follow OpenTelemetry's semantic conventions for HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.types import Scope

from api.metrics import FUNCTION
from api.operations.system import HEALTHZ, METRICS, READYZ
from sandlot.tracing import Tracing, mark_failed, traceparent_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_UNTRACED: Final = frozenset({HEALTHZ.path, READYZ.path, METRICS.path})
"""Probes and scrapers request these every few seconds."""
_SPAN: Final = "sandlot.span"
_TRACEPARENT: Final = b"traceparent"


class RequestTracing:
    """Begins and ends the spans of requests.

    It replaces the caller's traceparent with that of the span, so that the job continues the span.
    """

    def __init__(self, tracing: Tracing) -> None:
        from opentelemetry.trace import SpanKind

        self._tracing = tracing
        self._kind = SpanKind.SERVER

    def begin(self, scope: Scope) -> None:
        """Begin the span of a request and put it in the scope."""
        if scope["path"] in _UNTRACED:
            return
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == _TRACEPARENT), "")
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        span = self._tracing.start_span(scope["method"], self._kind, given, attributes)
        scope[_SPAN] = span
        others = [header for header in scope["headers"] if header[0] != _TRACEPARENT]
        scope["headers"] = [*others, (_TRACEPARENT, traceparent_of(span).encode())]

    def end(self, scope: Scope, route: str, status: int, job_id: str) -> None:
        """End the span of a request with the route, status and job of its reply."""
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
