"""The worker's engine: an RQ worker that runs many executions at once in one process."""

from worker.engine.engine import Engine

__all__ = ["Engine"]
