"""Tell of every call of some functions: what it prints while it runs, and how it ended.

Knows: the list of jobs, which are new, which are listened to. Does not know: who calls, how anything looks on a screen.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, Final

import httpx

from sandlot.client import Client
from sandlot.errors import ApiUnreachable, CallerError, SandlotError, TryAgain
from sandlot.models import JobStatus

Say = Callable[[str, str], None]

PAUSE_S: Final = 0.5
PAGE: Final = 100
"""Newest first: of more calls than these in one pause, the oldest are not told of."""
LISTENED_TO: Final = 8
"""Calls whose output is shown as it comes, at most; what more of them print is shown when they have ended."""


class Calls:
    """`names`: the functions whose calls are told of, at the moment."""

    def __init__(self, client: Client, names: Callable[[], Collection[str]], say: Say) -> None:
        self._client = client
        self._names = names
        self._say = say
        self._told: set[str] = set()
        self._listening: dict[str, asyncio.Task[None]] = {}
        self._heard: dict[str, str] = {}
        """What a call had printed when its stream broke off for good."""

    async def follow(self) -> None:
        """Everything that runs or ends from now on, for ever; an API that is away for a while is waited for."""
        self._told = {job["id"] for job in await self._jobs() if JobStatus(job["status"]).final}
        away = False
        try:
            while True:
                await asyncio.sleep(PAUSE_S)
                try:
                    await self._look()
                    away = False
                except (ApiUnreachable, TryAgain) as error:
                    if not away:
                        self._say("bad", error.message)
                    away = True
        finally:
            listening = list(self._listening.values())
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)

    async def _look(self) -> None:
        jobs = await self._jobs()
        new = [job for job in reversed(jobs) if job["id"] not in self._told and job["id"] not in self._listening]
        # What is no longer on the page is older than all that is.
        page = {job["id"] for job in jobs}
        self._told &= page
        self._heard = {job_id: text for job_id, text in self._heard.items() if job_id in page}
        for job in new:
            ours = job["function"] in self._names()
            if JobStatus(job["status"]).final:
                self._told.add(job["id"])
                if ours:
                    await self._show_rest(job)
                    self._tell(job)
            elif ours and self._worth_listening(job):
                self._listening[job["id"]] = asyncio.create_task(self._listen(job), name=f"listen to {job['id']}")

    def _worth_listening(self, job: dict[str, Any]) -> bool:
        running = job["status"] == JobStatus.RUNNING
        return running and job["id"] not in self._heard and len(self._listening) < LISTENED_TO

    async def _jobs(self) -> list[dict[str, Any]]:
        page = await asyncio.to_thread(self._client.jobs, limit=PAGE)
        return list(page["jobs"])

    async def _listen(self, job: dict[str, Any]) -> None:
        said = ""
        try:
            async for name, document in _in_thread(self._client, job["id"]):
                if name == "log":
                    said += document["text"]
                    self._show(job["function"], document["text"])
                elif name == "result":
                    self._told.add(job["id"])
                    self._tell(document)
        except (SandlotError, httpx.HTTPError):
            self._heard[job["id"]] = said  # its end is noticed as that of any other
        finally:
            del self._listening[job["id"]]

    async def _show_rest(self, job: dict[str, Any]) -> None:
        with contextlib.suppress(CallerError):  # no longer kept: it was told late, or is kept for a second only
            printed = await asyncio.to_thread(self._client.logs, job["id"])
            self._show(job["function"], printed.removeprefix(self._heard.pop(job["id"], "")))

    def _tell(self, job: dict[str, Any]) -> None:
        name = job["function"]
        fine = job["status"] == JobStatus.SUCCEEDED
        error = job.get("error") or {}
        reason = f": {error.get('errorType')}: {error.get('errorMessage')}" if error else ""
        took = f" in {job['timings']['total']:.1f} ms" if job.get("timings") else ""
        self._say(
            "ok" if fine else "bad",
            f"{name} {job['outcome']}{took} · version {job['version']} · job {job['id']}{reason}",
        )

    def _show(self, name: str, text: str) -> None:
        for line in text.splitlines():
            self._say("log", f"{name}: {line}")


async def _in_thread(client: Client, job_id: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """What `Client.follow` yields, in order.

    The thread is a daemon and is not waited for: one that reads from a silent stream cannot be told to stop, and must not hold up Ctrl+C.
    """
    loop = asyncio.get_running_loop()
    coming: asyncio.Queue[tuple[str, dict[str, Any]] | Exception | None] = asyncio.Queue()

    def read() -> None:
        last: Exception | None = None
        try:
            for event in client.follow(job_id):
                loop.call_soon_threadsafe(coming.put_nowait, event)
        except Exception as error:  # noqa: BLE001 -- raised where it is waited for
            last = error
        with contextlib.suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(coming.put_nowait, last)

    threading.Thread(target=read, name=f"follow {job_id}", daemon=True).start()
    while (event := await coming.get()) is not None:
        if isinstance(event, Exception):
            raise event
        yield event
