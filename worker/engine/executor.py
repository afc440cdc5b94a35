"""What the engine needs of a pool.

Knows: the calls. Does not know: sandboxes; `worker.pool.Pool` is one, and tests have another that runs executions in-process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sandlot.errors import SandlotError
from sandlot.models import Outcome, Runtime
from worker.execution import Execution

Done = Callable[[Execution, Outcome | SandlotError], None]


class Executor(Protocol):
    """Runs executions, at most `slots` at once."""

    slots: int
    runtimes: frozenset[Runtime]

    def start(self, execution: Execution, done: Done) -> None:
        """Never raises, never blocks; `done` is called exactly once, from the loop."""

    def cancel(self, job_id: str) -> bool:
        """Kill it; `done` gets an outcome of kind `cancelled`."""

    def abandon(self, job_id: str) -> bool:
        """Kill it; `done` is never called."""

    def printed(self, job_id: str) -> bytes:
        """What it has printed so far, as far as it is kept; nothing for a job that does not run here."""
        ...
