"""Live view of the calls of some functions: their output while they run, and how they ended."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, Final

import httpx

from sandlot.cli.up.screen import Report
from sandlot.client import Client
from sandlot.errors import ApiUnreachable, CallerError, SandlotError, TryAgain
from sandlot.models import JobStatus

POLL_S: Final = 0.5
PAGE_SIZE: Final = 100
"""Jobs fetched per poll, newest first. Of more calls than this between two polls, the oldest are
not shown."""
STREAMS_LIMIT: Final = 8
"""Calls whose output is shown live. The output of further calls is shown when they have ended."""


class CallTail:
    """Poller of the list of jobs that reports each call of the functions in `names()`."""

    def __init__(self, client: Client, names: Callable[[], Collection[str]], report: Report) -> None:
        self._client = client
        self._names = names
        self._report = report
        self._reported: set[str] = set()
        """Ids of jobs whose end was reported."""
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._shown_output: dict[str, str] = {}
        """Output shown of jobs whose stream broke off for good, by job id."""

    async def follow(self) -> None:
        """Report every call that runs or ends from now on, until cancelled.

        While the API does not answer, it keeps polling; the first failure of a series is reported.
        """
        self._reported = {job["id"] for job in await self._fetch_jobs() if JobStatus(job["status"]).final}
        is_away = False
        try:
            while True:
                await asyncio.sleep(POLL_S)
                try:
                    await self._poll_jobs()
                    is_away = False
                except (ApiUnreachable, TryAgain) as error:
                    if not is_away:
                        self._report("bad", error.message)
                    is_away = True
        finally:
            streams = list(self._streams.values())
            for task in streams:
                task.cancel()
            await asyncio.gather(*streams, return_exceptions=True)

    async def _poll_jobs(self) -> None:
        jobs = await self._fetch_jobs()
        new = [job for job in reversed(jobs) if job["id"] not in self._reported and job["id"] not in self._streams]
        # A job that has left the page is older than all jobs on it, so it cannot come back.
        page = {job["id"] for job in jobs}
        self._reported &= page
        self._shown_output = {job_id: text for job_id, text in self._shown_output.items() if job_id in page}
        for job in new:
            is_ours = job["function"] in self._names()
            if JobStatus(job["status"]).final:
                self._reported.add(job["id"])
                if is_ours:
                    await self._show_remaining_output(job)
                    self._report_end(job)
            elif is_ours and self._may_stream(job):
                self._streams[job["id"]] = asyncio.create_task(self._stream(job), name=f"stream {job['id']}")

    def _may_stream(self, job: dict[str, Any]) -> bool:
        is_running = job["status"] == JobStatus.RUNNING
        return is_running and job["id"] not in self._shown_output and len(self._streams) < STREAMS_LIMIT

    async def _fetch_jobs(self) -> list[dict[str, Any]]:
        page = await asyncio.to_thread(self._client.jobs, limit=PAGE_SIZE)
        return list(page["jobs"])

    async def _stream(self, job: dict[str, Any]) -> None:
        shown = ""
        try:
            async for name, document in _follow_in_thread(self._client, job["id"]):
                if name == "log":
                    shown += document["text"]
                    self._show_output(job["function"], document["text"])
                elif name == "result":
                    self._reported.add(job["id"])
                    self._report_end(document)
        except (SandlotError, httpx.HTTPError):
            self._shown_output[job["id"]] = shown  # the next polls find its end
        finally:
            del self._streams[job["id"]]

    async def _show_remaining_output(self, job: dict[str, Any]) -> None:
        with contextlib.suppress(CallerError):  # its record is gone already: some are kept for a second only
            output = await asyncio.to_thread(self._client.logs, job["id"])
            self._show_output(job["function"], output.removeprefix(self._shown_output.pop(job["id"], "")))

    def _report_end(self, job: dict[str, Any]) -> None:
        error = job.get("error") or {}
        reason = f": {error.get('errorType')}: {error.get('errorMessage')}" if error else ""
        took = f" in {job['timings']['total']:.1f} ms" if job.get("timings") else ""
        self._report(
            "ok" if job["status"] == JobStatus.SUCCEEDED else "bad",
            f"{job['function']} {job['outcome']}{took} · version {job['version']} · job {job['id']}{reason}",
        )

    def _show_output(self, function: str, text: str) -> None:
        for line in text.splitlines():
            self._report("log", f"{function}: {line}")


async def _follow_in_thread(client: Client, job_id: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield what `Client.follow` yields, in order, and raise what it raises.

    A thread reads it. The thread is a daemon that nothing joins: a read from a silent stream cannot
    be interrupted, and must not delay Ctrl+C.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[str, dict[str, Any]] | Exception | None] = asyncio.Queue()

    def read_stream() -> None:
        last: Exception | None = None
        try:
            for event in client.follow(job_id):
                loop.call_soon_threadsafe(events.put_nowait, event)
        except Exception as error:  # noqa: BLE001 - raised where the events are awaited
            last = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing awaits the events any more
            loop.call_soon_threadsafe(events.put_nowait, last)

    threading.Thread(target=read_stream, name=f"follow {job_id}", daemon=True).start()
    while (event := await events.get()) is not None:
        if isinstance(event, Exception):
            raise event
        yield event
