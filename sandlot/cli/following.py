"""Tell of every call of some functions: what it printed and how it ended, when it has.

Knows: the list of jobs, which are new. Does not know: who calls, how anything looks on a screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Final

from sandlot.client import Client
from sandlot.errors import ApiUnreachable, CallerError, TryAgain
from sandlot.models import JobStatus

Say = Callable[[str, str], None]

PAUSE_S: Final = 0.5
PAGE: Final = 100
"""Newest first: of more calls than these in one pause, the oldest are not told of."""


class Calls:
    """`names`: the functions whose calls are told of, at the moment."""

    def __init__(self, client: Client, names: Callable[[], Collection[str]], say: Say) -> None:
        self._client = client
        self._names = names
        self._say = say
        self._told: set[str] = set()

    async def follow(self) -> None:
        """Everything that ends from now on, for ever; an API that is away for a while is waited for."""
        self._told = {job["id"] for job in await self._jobs() if JobStatus(job["status"]).final}
        away = False
        while True:
            await asyncio.sleep(PAUSE_S)
            try:
                await self._look()
                away = False
            except (ApiUnreachable, TryAgain) as error:
                if not away:
                    self._say("bad", error.message)
                away = True

    async def _look(self) -> None:
        jobs = await self._jobs()
        ended = [job for job in reversed(jobs) if JobStatus(job["status"]).final and job["id"] not in self._told]
        # What is no longer on the page is older than all that is.
        self._told = {job["id"] for job in jobs} & self._told | {job["id"] for job in ended}
        for job in ended:
            if job["function"] in self._names():
                await self._tell(job)

    async def _jobs(self) -> list[dict[str, Any]]:
        page = await asyncio.to_thread(self._client.jobs, limit=PAGE)
        return list(page["jobs"])

    async def _tell(self, job: dict[str, Any]) -> None:
        name = job["function"]
        try:
            logs = await asyncio.to_thread(self._client.logs, job["id"])
        except CallerError:  # no longer kept: it was told late, or is kept for a second only
            logs = ""
        for line in logs.splitlines():
            self._say("log", f"{name}: {line}")
        fine = job["status"] == JobStatus.SUCCEEDED
        error = job.get("error") or {}
        reason = f": {error.get('errorType')}: {error.get('errorMessage')}" if error else ""
        took = f" in {job['timings']['total']:.1f} ms" if job.get("timings") else ""
        self._say(
            "ok" if fine else "bad",
            f"{name} {job['outcome']}{took} · version {job['version']} · job {job['id']}{reason}",
        )
