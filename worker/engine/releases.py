"""Jobs given back.

Knows: which releases are under way. Does not know: why a job is given back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sandlot.errors import QueueUnavailable
from sandlot.jobs.worker_queue import WorkerQueue
from worker.metrics.counts import WorkerCounts

log = logging.getLogger(__name__)


class Releases:
    """Gives leases back in the background; `on_done` is called after each."""

    def __init__(self, queue: WorkerQueue, counts: WorkerCounts, on_done: Callable[[], None]) -> None:
        self._queue = queue
        self._counts = counts
        self._on_done = on_done
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    def give(self, leases: list[str], *, delay_ms: int) -> None:
        """Their jobs may be claimed again after `delay_ms`; their attempts do not count."""
        if leases:
            self._counts.given_back += len(leases)
            task = asyncio.get_running_loop().create_task(self._give(leases, delay_ms), name="release")
            self._tasks.add(task)
            task.add_done_callback(self._given)

    def _given(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._on_done()

    async def _give(self, leases: list[str], delay_ms: int) -> None:
        try:
            await self._queue.release(leases, delay_ms=delay_ms)
        except QueueUnavailable as error:
            # The reaper finds them when their leases run out, at the price of an attempt.
            log.warning("could not release", extra={"jobs": len(leases), "error": error.message})
