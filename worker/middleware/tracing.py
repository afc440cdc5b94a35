"""The span of an attempt, with a part for each stage: in the queue, boot, import, run.

Knows: how timings become moments. Does not know: exporters, Redis, sandboxes.
The composition root puts this around the pool only when traces are wanted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sandlot.errors import SandlotError
from sandlot.models import Outcome, OutcomeKind, Timings
from sandlot.tracing import Tracing, mark_failed, traceparent_of
from worker.execution import Done, Execution, Executor

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_NS_PER_MS: Final = 1_000_000


class TracingPool(Executor):
    """An executor that hands each function the traceparent of its own attempt."""

    def __init__(self, pool: Executor, tracing: Tracing) -> None:
        from opentelemetry.trace import SpanKind

        self._pool = pool
        self._tracing = tracing
        self._kind = SpanKind.CONSUMER
        self._spans: dict[str, Span] = {}
        self.slots = pool.slots
        self.runtimes = pool.runtimes

    def start(self, execution: Execution, done: Done) -> None:
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

        def ended(execution: Execution, how: Outcome | SandlotError) -> None:
            self._end(execution.job_id, how)
            done(execution, how)

        self._pool.start(execution, ended)

    def cancel(self, job_id: str) -> bool:
        return self._pool.cancel(job_id)

    def abandon(self, job_id: str) -> bool:
        self._end(job_id, None)
        return self._pool.abandon(job_id)

    def printed(self, job_id: str) -> bytes:
        return self._pool.printed(job_id)

    def _end(self, job_id: str, how: Outcome | SandlotError | None) -> None:
        span = self._spans.pop(job_id, None)
        if span is None:
            return
        if isinstance(how, Outcome):
            self._stages(span, how.timings)
            span.set_attribute("sandlot.outcome", how.kind.value)
            span.set_attribute("faas.coldstart", how.cold)
            if how.kind is not OutcomeKind.OK:
                mark_failed(span, how.kind.value)
        else:
            mark_failed(span, "the right to this attempt was lost" if how is None else how.message)
        span.end()

    def _stages(self, span: Span, timings: Timings) -> None:
        """Back from now, since they follow each other and the run is what has just ended."""
        ended_ns = time.time_ns()
        for name, took_ms in (("run", timings.run), ("import", timings.import_), ("boot", timings.boot)):
            if took_ms:
                began_ns = ended_ns - round(took_ms * _NS_PER_MS)
                self._tracing.record_stage(span, name, began_ns, ended_ns)
                ended_ns = began_ns
