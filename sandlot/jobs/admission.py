"""What keeps submits out, as far as this process has heard: functions that crash too often, and memory that runs short.

Knows: the queues whose breaker is not closed, kept up to date by push. Does not know: when a breaker opens or closes (retry_or_fail.lua, submit.lua),
how much memory is too much (reap.lua).
Redis alone decides. What is known here only says for which queues a submit has to look, so that for all others it need not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import hiredis

from sandlot.errors import QueueUnavailable
from sandlot.redis import keys
from sandlot.redis.pubsub import Subscription

log = logging.getLogger(__name__)

REREAD_PAUSE_S: Final = 1.0
ANY: Final = "*"
MEMORY_NEWS_S: Final = 3.0
"""Workers say each second that memory is short, as long as it is."""


class Admission:
    """`read` returns the names of all queues whose breaker is not closed. `breakers_to_check` is what the submit script takes."""

    def __init__(self, url: str, read: Callable[[], Awaitable[list[str]]]) -> None:
        self._read = read
        self._open: set[str] = set()
        self._look = asyncio.Event()
        self._subscription = Subscription(url, keys.BREAKERS_CHANGED, self._on_message, self._on_subscribed)
        self._reader: asyncio.Task[None] | None = None
        self._memory_alert: tuple[int, float] | None = None
        self.breakers_to_check = ANY

    def memory_percent(self) -> int:
        """How much of Redis's memory is used, if that is too much; else 0."""
        if self._memory_alert is not None and self._memory_alert[1] < time.monotonic():
            self._memory_alert = None
        return 0 if self._memory_alert is None else self._memory_alert[0]

    async def open(self) -> None:
        """
        Raises:
            QueueUnavailable
        """
        await self._subscription.open()
        self._reader = asyncio.create_task(self._keep_reading(), name="breakers")

    def _on_subscribed(self) -> None:
        """What was pushed while nobody listened is lost: until it has been read anew, any may be open."""
        self.breakers_to_check = ANY
        self._look.set()

    def _on_message(self, payload: bytes) -> None:
        sign, _, queue = payload.decode("utf-8", "replace").partition(" ")
        if sign == "+":
            self._open.add(queue)
            log.warning("function crashes too often", extra={"queue": queue})
        elif sign == "-":
            self._open.discard(queue)
        elif sign == "!" and queue.isdecimal():
            if self._memory_alert is None:
                log.warning("memory of Redis runs short, new work is refused", extra={"used_percent": int(queue)})
            self._memory_alert = int(queue), time.monotonic() + MEMORY_NEWS_S
        if self.breakers_to_check != ANY:
            self._say()

    def _say(self) -> None:
        self.breakers_to_check = f" {' '.join(sorted(self._open))} " if self._open else ""

    async def _keep_reading(self) -> None:
        while True:
            await self._look.wait()
            self._look.clear()
            try:
                # What is pushed while this is read must not be overwritten by it.
                self._open.clear()
                self._open.update(await self._read())
                self._say()
            except (QueueUnavailable, hiredis.ReplyError):
                self._look.set()
                await asyncio.sleep(REREAD_PAUSE_S)

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        await self._subscription.close()
