"""Say what a run prints while it runs, to those who watch it.

Knows: who watches which job, and until when. Does not know: sandboxes, what is printed.
Nobody watches most jobs, and nothing is done for them. Only whole lines are said: a secret that is masked is never cut in two.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from time import monotonic as monotonic_s
from typing import Final

from sandlot.errors import QueueUnavailable
from sandlot.jobs.worker_queue import WorkerQueue

log = logging.getLogger(__name__)

WATCHED_S: Final = 5.0
"""Whoever still watches says so each second."""
INTERVAL_S: Final = 0.1
"""Between two looks at what one watched run has printed."""


class LogStream:
    """One per engine. `printed`: all that a job has printed so far. `attempt`: the one that runs here, nothing if none does."""

    def __init__(
        self, queue: WorkerQueue, printed: Callable[[str], bytes], attempt: Callable[[str], int | None]
    ) -> None:
        self._queue = queue
        self._printed = printed
        self._attempt = attempt
        self._watchers: dict[str, dict[str, float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, job_id: str, channel: str) -> None:
        """Somebody listens on this channel for the next seconds."""
        if self._attempt(job_id) is None:
            return
        known = job_id in self._watchers
        self._watchers.setdefault(job_id, {})[channel] = monotonic_s() + WATCHED_S
        if not known:
            task = asyncio.get_running_loop().create_task(self._say(job_id), name=f"following {job_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _say(self, job_id: str) -> None:
        said_bytes, attempt = 0, self._attempt(job_id)
        try:
            while attempt is not None and attempt == self._attempt(job_id) and (channels := self._channels(job_id)):
                text = self._printed(job_id)
                whole_bytes = text.rfind(b"\n") + 1
                if whole_bytes > said_bytes:
                    with contextlib.suppress(QueueUnavailable):  # said again in a moment, from where it was
                        answer = await self._queue.append_logs(
                            job_id, attempt, said_bytes, text[said_bytes:whole_bytes], channels
                        )
                        said_bytes = {1: whole_bytes, -1: 0}.get(answer, said_bytes)
                        if answer == 0:
                            return
                await asyncio.sleep(INTERVAL_S)
        finally:
            del self._watchers[job_id]

    def _channels(self, job_id: str) -> list[str]:
        now_s = monotonic_s()
        watchers = {channel: until_s for channel, until_s in self._watchers[job_id].items() if until_s > now_s}
        self._watchers[job_id] = watchers
        return list(watchers)
