"""Middlewares around the pool: redaction, tracing and failpoints.

The composition root lists those that are wanted. The engine sees one more executor, and neither
engine nor pool knows a middleware.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sandlot.errors import SandlotError
from sandlot.models import Outcome
from worker.execution import Execution, Executor, OnDone


class Middleware:
    """Hooks around an execution. A subclass overrides those it needs; the others cost nothing."""

    def before_start(self, execution: Execution) -> None:
        """Run before the pool gets the execution; may change it."""

    def after_start(self, execution: Execution) -> None:
        """Run after the pool has taken the execution."""

    def before_done(self, execution: Execution, ended: Outcome | SandlotError) -> Outcome | SandlotError:
        """Return what the engine is to see of how the execution ended."""
        return ended

    def after_done(self, execution: Execution) -> None:
        """Run after the engine has seen how the execution ended."""

    def on_abandon(self, execution: Execution) -> None:
        """Run before the pool kills an execution whose end the engine will never see."""

    def filter_output(self, execution: Execution, output: bytes) -> bytes:
        """Return what may be shown of the output of a running execution."""
        return output


class MiddlewarePool(Executor):
    """An executor that runs middlewares around another one.

    Hooks of a start run from the first middleware to the last, hooks of an end and of output from
    the last to the first: the last middleware is closest to the pool.
    """

    def __init__(self, pool: Executor, middlewares: Sequence[Middleware]) -> None:
        inner_first = tuple(reversed(middlewares))
        self._pool = pool
        self._running: dict[str, tuple[Execution, OnDone]] = {}
        self.slots = pool.slots
        self.runtimes = pool.runtimes
        # Only overridden hooks are kept: an empty tuple is all that an execution pays for the rest.
        self._before_start: tuple[Callable[[Execution], None], ...] = tuple(
            each.before_start for each in middlewares if type(each).before_start is not Middleware.before_start
        )
        self._after_start = tuple(
            each.after_start for each in inner_first if type(each).after_start is not Middleware.after_start
        )
        self._before_done = tuple(
            each.before_done for each in inner_first if type(each).before_done is not Middleware.before_done
        )
        self._after_done = tuple(
            each.after_done for each in middlewares if type(each).after_done is not Middleware.after_done
        )
        self._on_abandon = tuple(
            each.on_abandon for each in middlewares if type(each).on_abandon is not Middleware.on_abandon
        )
        self._filter_output = tuple(
            each.filter_output for each in inner_first if type(each).filter_output is not Middleware.filter_output
        )

    def start(self, execution: Execution, on_done: OnDone) -> None:
        for hook in self._before_start:
            hook(execution)
        self._running[execution.job_id] = execution, on_done
        self._pool.start(execution, self._on_done)
        for hook in self._after_start:
            hook(execution)

    def cancel(self, job_id: str) -> bool:
        return self._pool.cancel(job_id)

    def abandon(self, job_id: str) -> bool:
        running = self._running.pop(job_id, None)
        if running is not None:
            for hook in self._on_abandon:
                hook(running[0])
        return self._pool.abandon(job_id)

    def output_of(self, job_id: str) -> bytes:
        running = self._running.get(job_id)
        if running is None:
            return b""
        output = self._pool.output_of(job_id)
        for hook in self._filter_output:
            output = hook(running[0], output)
        return output

    def _on_done(self, execution: Execution, ended: Outcome | SandlotError) -> None:
        on_done = self._running.pop(execution.job_id)[1]
        for hook in self._before_done:
            ended = hook(execution, ended)
        on_done(execution, ended)
        for after in self._after_done:
            after(execution)
