"""A pool without sandboxes: runs Python callables in this process, and lets a test decide when they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sandlot.errors import SandlotError
from sandlot.models import Outcome, OutcomeKind, Runtime, Timings
from worker.execution import Execution

OK = Outcome(kind=OutcomeKind.OK, result=b"null", timings=Timings(run=0.1))


class InlinePool:
    """`behaviour` maps an execution to its outcome, to an error, or to nothing: then it runs until `finish`."""

    def __init__(
        self, slots: int = 4, behaviour: Callable[[Execution], Outcome | SandlotError | None] | None = None
    ) -> None:
        self.slots = slots
        self.runtimes = frozenset({Runtime.PYTHON})
        self.behaviour = behaviour or (lambda execution: OK)
        self.started: list[Execution] = []
        self.abandoned: list[str] = []
        self.most = 0
        self.outputs: dict[str, bytes] = {}
        self._runs: dict[str, tuple[Execution, Any]] = {}

    @property
    def busy(self) -> int:
        return len(self._runs)

    def start(self, execution: Execution, done: Any) -> None:
        self.started.append(execution)
        self._runs[execution.job_id] = (execution, done)
        self.most = max(self.most, len(self._runs))
        ended = self.behaviour(execution)
        if ended is not None:
            asyncio.get_running_loop().call_soon(self.finish, execution.job_id, ended)

    def finish(self, job_id: str, ended: Outcome | SandlotError = OK) -> None:
        run = self._runs.pop(job_id, None)
        if run is not None:
            run[1](run[0], ended)

    def cancel(self, job_id: str) -> bool:
        known = job_id in self._runs
        self.finish(job_id, Outcome(kind=OutcomeKind.CANCELLED))
        return known

    def output_of(self, job_id: str) -> bytes:
        return self.outputs.get(job_id, b"")

    def abandon(self, job_id: str) -> bool:
        self.abandoned.append(job_id)
        return self._runs.pop(job_id, None) is not None
