"""Who in this process waits for which job.

Knows: futures by job id, the messages that resolve them. Does not know: how a job is submitted.
A message can be lost (publish reaches only who listens), so whoever waits longer than a second is looked up, all in one pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from sandlot.errors import QueueUnavailable, UnsafeRecord
from sandlot.jobs.followers import Followers
from sandlot.jobs.settlement import UNSIGNED, Settled, read_end, settled_from
from sandlot.jobs.subscription import Subscription

log = logging.getLogger(__name__)

REREAD_INTERVAL_S: Final = 1.0
MORE: Final = b"+"
"""Instead of an end: the job has printed more (printed.lua)."""


class Waiters:
    """Futures by job id, kept until they are forgotten. Two who wait for one job have one each: what ends one wait is not the other's end."""

    def __init__(
        self,
        url: str,
        channel: str,
        signing_key: bytes,
        read: Callable[[str], Awaitable[Settled | None]],
        keep: Callable[[str], Awaitable[None]],
        followers: Followers,
    ) -> None:
        """
        Args:
            read: the recorded end of a job, or nothing.
            keep: told of each end that came for nobody.
            followers: told of what is heard of any job, and that something may have been missed.
        """
        self._loop = asyncio.get_running_loop()
        self._key = signing_key
        self._read = read
        self._keep = keep
        self._keeping: set[asyncio.Task[None]] = set()
        self._futures: dict[str, list[asyncio.Future[Settled]]] = {}
        self._followers = followers
        self._look = asyncio.Event()
        self._subscription = Subscription(url, channel, self._on_message, self._on_subscribed)
        self._rereader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """
        Raises:
            QueueUnavailable
        """
        await self._subscription.open()
        self._rereader = asyncio.create_task(self._reread(), name="waiters")

    def expect(self, job_id: str) -> asyncio.Future[Settled]:
        future: asyncio.Future[Settled] = self._loop.create_future()
        others = self._futures.get(job_id)
        if others is None:
            self._futures[job_id] = [future]
        else:
            others.append(future)
        return future

    def forget(self, job_id: str, future: asyncio.Future[Settled]) -> None:
        futures = self._futures.get(job_id, [])
        if future in futures:
            futures.remove(future)
            if not futures:
                del self._futures[job_id]

    def _on_subscribed(self) -> None:
        self._look.set()
        self._followers.missed()

    def _on_message(self, payload: bytes) -> None:
        """One or more ends (or `+`, for more to read), each `<length>\\n<job>\\n<signed end>\\n<result>` (transitions.lua)."""
        start = 0
        while (newline := payload.find(b"\n", start)) > 0:
            length = payload[start:newline]
            start = newline + 1 + int(length) if length.isdigit() else len(payload)
            self._on_end(payload[newline + 1 : start])

    def _on_end(self, message: bytes) -> None:
        name, _, rest = message.partition(b"\n")
        job_id = name.decode("utf-8", "replace")
        if rest == MORE:
            self._followers.printed(job_id)
            return
        followed = self._followers.ended(job_id)
        futures = self._futures.get(job_id)
        if futures is None:
            if not followed:
                self._keep_for_later(job_id)
            return
        if all(map(_is_done, futures)):
            return
        text, _, result = rest.partition(b"\n")
        try:
            end = read_end(self._key, job_id, text)
            if text.startswith(UNSIGNED) or (end.result_bytes and not (result or end.result_pieces)):
                # No worker saw it, or its result is neither here nor stored: what is missing is in the record.
                self._look.set()
                return
            _resolve(futures, settled_from(job_id, end, result, function="", version=0))
        except UnsafeRecord as error:
            log.warning("forged message ignored", extra={"job_id": job_id, "error": error.message})

    def _keep_for_later(self, job_id: str) -> None:
        """Who waited here has left in the meantime, perhaps with the job's address."""
        task = asyncio.ensure_future(self._keep(job_id))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _reread(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REREAD_INTERVAL_S):
                    await self._look.wait()
            self._look.clear()
            waiting = [job_id for job_id, futures in self._futures.items() if not all(map(_is_done, futures))]
            await asyncio.gather(*(self._read_one(job_id) for job_id in waiting))

    async def _read_one(self, job_id: str) -> None:
        futures = self._futures.get(job_id, [])
        try:
            settled = await self._read(job_id)
        except QueueUnavailable:
            return  # Looked up again within a second; the waiter has its own deadline.
        except UnsafeRecord as error:
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        if settled is not None:
            _resolve(futures, settled)

    async def close(self) -> None:
        if self._rereader is not None:
            self._rereader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rereader
        await self._subscription.close()
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        for futures in self._futures.values():
            for future in futures:
                future.cancel()
        self._futures.clear()


def _is_done(future: asyncio.Future[Settled]) -> bool:
    return future.done()


def _resolve(futures: Iterable[asyncio.Future[Settled]], settled: Settled) -> None:
    for future in futures:
        if not future.done():
            future.set_result(settled)
