"""Which functions crash too often, as far as this process has heard.

Knows: the queues whose breaker is not closed, kept up to date by push. Does not know: when a breaker opens or closes (judge.lua, submit.lua).
Redis alone decides. What is known here only says for which queues a submit has to look, so that for all others it need not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import hiredis

from sandlot.errors import QueueUnavailable
from sandlot.jobs import keys
from sandlot.jobs.subscription import Subscription

log = logging.getLogger(__name__)

REREAD_PAUSE_S: Final = 1.0
ANY: Final = "*"


class Breakers:
    """`read` returns the names of all queues whose breaker is not closed. `suspects` is what the submit script takes."""

    def __init__(self, url: str, read: Callable[[], Awaitable[list[str]]]) -> None:
        self._read = read
        self._open: set[str] = set()
        self._look = asyncio.Event()
        self._subscription = Subscription(url, keys.BREAKERS_CHANGED, self._on_message, self._on_subscribed)
        self._reader: asyncio.Task[None] | None = None
        self.suspects = ANY

    async def open(self) -> None:
        """
        Raises:
            QueueUnavailable
        """
        await self._subscription.open()
        self._reader = asyncio.create_task(self._keep_reading(), name="breakers")

    def _on_subscribed(self) -> None:
        """What was pushed while nobody listened is lost: until it has been read anew, any may be open."""
        self.suspects = ANY
        self._look.set()

    def _on_message(self, payload: bytes) -> None:
        sign, _, queue = payload.decode("utf-8", "replace").partition(" ")
        if sign == "+":
            self._open.add(queue)
            log.warning("function crashes too often", extra={"queue": queue})
        elif sign == "-":
            self._open.discard(queue)
        if self.suspects != ANY:
            self._say()

    def _say(self) -> None:
        self.suspects = f" {' '.join(sorted(self._open))} " if self._open else ""

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
