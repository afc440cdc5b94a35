"""Tracing: spans of calls, sent to a collector by OTLP over HTTP.

Without SANDLOT_OTLP_URL nothing here runs and nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from sandlot.errors import InvalidSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanKind, Tracer

    from sandlot.settings import Settings

EXPORT_TIMEOUT_S: Final = 5.0
"""Timeout of one batch; at exit, the process waits this long for the last one."""

Attributes = Mapping[str, str | int | float | bool]


class Tracing:
    """Tracer of one process.

    A thread of the SDK buffers spans and sends them; while the collector is down, spans are lost,
    never calls.
    """

    def __init__(self, provider: TracerProvider, tracer: Tracer) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    def start_span(
        self, name: str, kind: SpanKind, traceparent: str, attributes: Attributes, *, began_ns: int | None = None
    ) -> Span:
        """Start a span below the given parent.

        Text that is not a traceparent starts a trace of its own, as the W3C recommendation asks.
        """
        parent = self._propagator.extract({"traceparent": traceparent} if traceparent else {})
        return self._tracer.start_span(name, parent, kind, attributes, start_time=began_ns)

    def record_stage(self, parent: Span, name: str, began_ns: int, ended_ns: int) -> None:
        """Record a part of a span that is already over; times are Unix nanoseconds."""
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(parent)
        self._tracer.start_span(name, context, start_time=began_ns).end(ended_ns)

    def close(self) -> None:
        """Send the remaining spans. Blocks for at most `EXPORT_TIMEOUT_S`."""
        self._provider.shutdown()


def traceparent_of(span: Span) -> str:
    """Return the traceparent that makes this span a parent.

    The format is https://www.w3.org/TR/trace-context/.
    """
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def mark_failed(span: Span, description: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, description))


def open_tracing(settings: Settings, part: str) -> Tracing | None:
    """Return the tracer of this process, or None if no collector is set.

    Args:
        part: `api` or `worker`.

    Raises:
        InvalidSettings: the extra `otel` is not installed, or the URL is not valid.
    """
    if not settings.otlp_url:
        return None
    if not settings.otlp_url.startswith(("http://", "https://")):
        raise InvalidSettings(
            f"SANDLOT_OTLP_URL={settings.otlp_url!r} is not a URL; write one such as http://127.0.0.1:4318"
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError as error:
        raise InvalidSettings(
            "SANDLOT_OTLP_URL is set, but OpenTelemetry is not installed; install it with: pip install 'sandlot[otel]'"
        ) from error
    resource = Resource(
        {"service.name": f"sandlot-{part}", "service.version": version("sandlot"), "host.name": socket.gethostname()}
    )
    sampler = ParentBased(TraceIdRatioBased(settings.trace_share))
    provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{settings.otlp_url.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    return Tracing(provider, provider.get_tracer("sandlot"))
