"""Admission control, as far as one process knows it: open breakers and Redis's memory.

Redis alone decides. `retry_or_fail.lua` opens a breaker, `submit.lua` enforces it and `reap.lua`
says when memory is short. This module only follows the messages about both, so that a submit looks
up a breaker for the few queues that may have one and skips the lookup for all others.
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
"""Between two attempts to read the breakers while Redis does not answer."""
CHECK_ALL: Final = "*"
MEMORY_ALERT_TTL_S: Final = 3.0
"""Workers repeat the alert each second for as long as memory is short (`reap.lua`)."""


class Admission:
    """The breakers that are not closed and the last memory alert, kept up to date by Pub/Sub.

    `breakers_to_check` is the third argument of `submit.lua`: the queues whose breaker the script
    has to look up, as ` a b `, `*` for every queue or an empty string for none. `memory_alert` is
    the share of Redis's memory in use, in percent, and the time by `time.monotonic` at which the
    alert expires; `None` if memory is not short. `memory_percent` drops an expired one.
    """

    def __init__(self, url: str, read_open_breakers: Callable[[], Awaitable[list[str]]]) -> None:
        """
        Args:
            read_open_breakers: returns the names of all queues whose breaker is not closed.
        """
        self._read_open_breakers = read_open_breakers
        self._open_breakers: set[str] = set()
        self._must_reread = asyncio.Event()
        self._subscription = Subscription(url, keys.BREAKERS_CHANGED, self._on_message, self._on_subscribed)
        self._reader: asyncio.Task[None] | None = None
        self.memory_alert: tuple[int, float] | None = None
        self.breakers_to_check = CHECK_ALL

    def memory_percent(self) -> int:
        """Return the share of Redis's memory in use if it is too high for new work, else 0."""
        if self.memory_alert is not None and self.memory_alert[1] < time.monotonic():
            self.memory_alert = None
        return 0 if self.memory_alert is None else self.memory_alert[0]

    async def open(self) -> None:
        """Subscribe and read the breakers.

        Raises:
            QueueUnavailable: the subscription was not confirmed in time.
        """
        await self._subscription.open()
        self._reader = asyncio.create_task(self._reread_forever(), name="admission")

    def _on_subscribed(self) -> None:
        """Check every queue until the breakers are read again: messages in between are lost."""
        self.breakers_to_check = CHECK_ALL
        self._must_reread.set()

    def _on_message(self, payload: bytes) -> None:
        """Read `+ queue` (opened), `- queue` (closed) or `! percent` (memory is short)."""
        sign, _, queue = payload.decode("utf-8", "replace").partition(" ")
        if sign == "+":
            self._open_breakers.add(queue)
            log.warning("breaker opened", extra={"queue": queue})
        elif sign == "-":
            self._open_breakers.discard(queue)
        elif sign == "!" and queue.isdecimal():
            if self.memory_alert is None:
                log.warning("redis memory is low, new work is refused", extra={"used_percent": int(queue)})
            self.memory_alert = int(queue), time.monotonic() + MEMORY_ALERT_TTL_S
        if self.breakers_to_check != CHECK_ALL:
            self._update_breakers_to_check()

    def _update_breakers_to_check(self) -> None:
        self.breakers_to_check = f" {' '.join(sorted(self._open_breakers))} " if self._open_breakers else ""

    async def _reread_forever(self) -> None:
        while True:
            await self._must_reread.wait()
            self._must_reread.clear()
            try:
                # Cleared before the read, not after: messages that arrive during it must survive.
                self._open_breakers.clear()
                self._open_breakers.update(await self._read_open_breakers())
                self._update_breakers_to_check()
            except (QueueUnavailable, hiredis.ReplyError):
                self._must_reread.set()
                await asyncio.sleep(REREAD_PAUSE_S)

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        await self._subscription.close()
