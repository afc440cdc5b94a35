"""Tracing: one span per attempt, with a child span per stage (queue, boot, import, run)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sandlot.errors import SandlotError
from sandlot.models import Outcome, OutcomeKind, Timings
from sandlot.tracing import Tracing, mark_failed, traceparent_of
from worker.execution import Execution
from worker.middleware import Middleware

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_NS_PER_MS: Final = 1_000_000


class TracingMiddleware(Middleware):
    """Middleware that gives each execution a span, and the function that span's traceparent."""

    def __init__(self, tracing: Tracing) -> None:
        from opentelemetry.trace import SpanKind

        self._tracing = tracing
        self._kind = SpanKind.CONSUMER
        self._spans: dict[str, Span] = {}

    def before_start(self, execution: Execution) -> None:
        now_ns = time.time_ns()
        queued_ns = now_ns - round(execution.queued_ms * _NS_PER_MS)
        attributes: dict[str, str | int] = {
            "faas.invoked_name": execution.function,
            "sandlot.version": execution.version,
            "sandlot.job_id": execution.job_id,
            "sandlot.attempt": execution.attempt,
        }
        name = f"invoke {execution.function}"
        span = self._tracing.start_span(name, self._kind, execution.traceparent, attributes, began_ns=queued_ns)
        self._tracing.record_stage(span, "queue", queued_ns, now_ns)
        execution.traceparent = traceparent_of(span)
        self._spans[execution.job_id] = span

    def before_done(self, execution: Execution, ended: Outcome | SandlotError) -> Outcome | SandlotError:
        span = self._spans.pop(execution.job_id)
        if isinstance(ended, Outcome):
            self._add_stages(span, ended.timings)
            span.set_attribute("sandlot.outcome", ended.kind.value)
            span.set_attribute("faas.coldstart", ended.cold)
            if ended.kind is not OutcomeKind.OK:
                mark_failed(span, ended.kind.value)
        else:
            mark_failed(span, ended.message)
        span.end()
        return ended

    def on_abandon(self, execution: Execution) -> None:
        span = self._spans.pop(execution.job_id)
        mark_failed(span, "the attempt was abandoned: its lease was lost or given back")
        span.end()

    def _add_stages(self, span: Span, timings: Timings) -> None:
        """Add the stages backwards from now: they follow each other, and the run has just ended."""
        ended_ns = time.time_ns()
        for name, took_ms in (("run", timings.run), ("import", timings.import_), ("boot", timings.boot)):
            if took_ms:
                began_ns = ended_ns - round(took_ms * _NS_PER_MS)
                self._tracing.record_stage(span, name, began_ns, ended_ns)
                ended_ns = began_ns
