"""Live logs: the output of running jobs, published to those who follow them.

Most jobs have no follower and cost nothing here. Only whole lines are published, so that redaction
never sees half a secret.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic as monotonic_s
from typing import Final

from sandlot.errors import QueueUnavailable
from sandlot.jobs.worker_queue import WorkerQueue

FOLLOWER_TTL_S: Final = 5.0
"""A follower renews its request every second; without a renewal for this long it is gone."""
INTERVAL_S: Final = 0.1
"""Pause between two publications of one job's output."""


class LogStream:
    """Publisher of the output of followed jobs, one per engine."""

    def __init__(
        self, queue: WorkerQueue, output_of: Callable[[str], bytes], attempt_of: Callable[[str], int | None]
    ) -> None:
        """
        Args:
            output_of: returns all output of a job so far.
            attempt_of: returns the attempt at a job that runs here, None if none does.
        """
        self._queue = queue
        self._output_of = output_of
        self._attempt_of = attempt_of
        self._followers: dict[str, dict[str, float]] = {}
        """By job, each follower's channel and the moment its request expires."""
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, job_id: str, channel: str) -> None:
        """Publish this job's output on a channel for the next seconds, if it runs here."""
        if self._attempt_of(job_id) is None:
            return
        known = job_id in self._followers
        self._followers.setdefault(job_id, {})[channel] = monotonic_s() + FOLLOWER_TTL_S
        if not known:
            task = asyncio.get_running_loop().create_task(self._publish(job_id), name=f"log stream {job_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop publishing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _publish(self, job_id: str) -> None:
        published_bytes, attempt = 0, self._attempt_of(job_id)
        try:
            while (
                attempt is not None and attempt == self._attempt_of(job_id) and (channels := self._channels_of(job_id))
            ):
                output = self._output_of(job_id)
                whole_bytes = output.rfind(b"\n") + 1
                if whole_bytes > published_bytes:
                    with contextlib.suppress(QueueUnavailable):  # the next round starts where this one did
                        answer = await self._queue.append_logs(
                            job_id, attempt, published_bytes, output[published_bytes:whole_bytes], channels
                        )
                        published_bytes = {1: whole_bytes, -1: 0}.get(answer, published_bytes)
                        if answer == 0:
                            return
                await asyncio.sleep(INTERVAL_S)
        finally:
            del self._followers[job_id]

    def _channels_of(self, job_id: str) -> list[str]:
        now_s = monotonic_s()
        followers = {channel: until_s for channel, until_s in self._followers[job_id].items() if until_s > now_s}
        self._followers[job_id] = followers
        return list(followers)
