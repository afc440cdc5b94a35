"""Who in this process follows which job: one look for everybody.

Knows: who is told of which job, when to look, the script that does. Does not know: what a follower makes of it, HTTP.
Nothing in Redis says that a job has begun, or begins anew, and a message can be lost (publish reaches only who listens); so the jobs that are
followed are looked at each second, all in one script, which also tells their workers that somebody still watches. An end, a follower who comes
and a new subscription are looked at once. However many follow, and however many jobs, an idle second costs one script.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, cast

import msgspec

from sandlot.errors import QueueUnavailable
from sandlot.jobs.lua import script
from sandlot.jobs.record import known_status
from sandlot.jobs.wire import Reply
from sandlot.models import JobStatus

LOOK_S: Final = 1.0
"""How long a change of status may go unnoticed. A worker forgets who has not said for 5 s that he watches (`WATCHED_S` in its following.py)."""
_AT_ONCE: Final = 500
"""Jobs in one script, for which everybody else waits: some 3 µs each."""

Answer = tuple[bytes, bytes, int] | None
"""Of one job, from follow.lua: RQ's status, outcome kind or nothing, attempt. `None`: there is no such job."""


class Glance(msgspec.Struct, frozen=True):
    """How a job stands, and which attempt at it is or was the last."""

    status: JobStatus
    attempt: int


class Follower:
    """One who follows one job. `changed` is set when there is news: the job stands differently, or it has printed more."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.looked = False
        """Whether the job was looked at since this one follows it: what was known before may be older than what he knows."""
        self._answer: Answer = None

    @property
    def glance(self) -> Glance | None:
        """How the job stood when it was last looked at; nothing if it was not there."""
        return None if self._answer is None else Glance(known_status(*self._answer[:2]), self._answer[2])

    def see(self, answer: Answer) -> None:
        if not self.looked or answer != self._answer:
            self.looked, self._answer = True, answer
            self.changed.set()


class Followers:
    """One per process, on its waiters' channel."""

    def __init__(self, run: Callable[..., Awaitable[Reply]], channel: str) -> None:
        """`run`: one idempotent script."""
        self._run = run
        self._channel = channel
        self._jobs: dict[str, set[Follower]] = {}
        self._due: set[str] = set()
        self._wake = asyncio.Event()
        self._looker: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._looker = asyncio.create_task(self._keep_looking(), name="followers")

    @contextlib.contextmanager
    def following(self, job_id: str) -> Iterator[Follower]:
        follower = Follower()
        self._jobs.setdefault(job_id, set()).add(follower)
        self._look_at(job_id)
        try:
            yield follower
        finally:
            self._jobs[job_id].remove(follower)
            if not self._jobs[job_id]:
                del self._jobs[job_id]

    def printed(self, job_id: str) -> None:
        """Its worker says that there is more to read."""
        for follower in self._jobs.get(job_id, ()):
            follower.changed.set()

    def ended(self, job_id: str) -> bool:
        """Its end was published; whether anybody here follows it."""
        if job_id not in self._jobs:
            return False
        self._look_at(job_id)
        return True

    def missed(self) -> None:
        """Messages may have been lost."""
        self._look_at(*self._jobs)

    def _look_at(self, *job_ids: str) -> None:
        self._due.update(job_ids)
        self._wake.set()

    async def _keep_looking(self) -> None:
        loop = asyncio.get_running_loop()
        all_due_s = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(all_due_s if self._jobs else None):
                    await self._wake.wait()
            self._wake.clear()
            if loop.time() >= all_due_s:
                self._due.update(self._jobs)
                all_due_s = loop.time() + LOOK_S
            due, self._due = [job_id for job_id in self._due if job_id in self._jobs], set()
            with contextlib.suppress(QueueUnavailable):  # all are looked at again within a second
                for start in range(0, len(due), _AT_ONCE):
                    await self._look(due[start : start + _AT_ONCE])

    async def _look(self, job_ids: list[str]) -> None:
        """
        Raises:
            QueueUnavailable
        """
        # Whoever comes while this look is under way has one of his own.
        followers = [tuple(self._jobs.get(job_id, ())) for job_id in job_ids]
        answers = cast("list[list[object] | None]", await self._run(script("follow"), self._channel, *job_ids))
        for answer, told in zip(answers, followers, strict=True):
            for follower in told:
                follower.see(None if answer is None else cast("tuple[bytes, bytes, int]", tuple(answer)))

    async def close(self) -> None:
        if self._looker is not None:
            self._looker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looker
