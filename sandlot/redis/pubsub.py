"""One connection that listens.

Knows: SUBSCRIBE and its messages, resubscribing. Does not know: what a message means.
Redis's publish reaches whoever listens at that moment and is never repeated: after every (re)connection the owner is told to look for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import hiredis

from sandlot.errors import QueueUnavailable
from sandlot.redis.connection import CALL_TIMEOUT_S, parse_address
from sandlot.redis.pipeline import BACKOFFS_S, Refused, Reply, Wire, greeting, open_wire

log = logging.getLogger(__name__)

PING_INTERVAL_S: Final = 5.0
"""A listener that hears nothing cannot tell silence from a dead peer; it asks."""


class Subscription:
    """Listens on one channel until closed.

    `on_message` gets each payload; `on_subscribed` is called whenever listening has begun, the first time included.
    """

    def __init__(
        self, url: str, channel: str, on_message: Callable[[bytes], None], on_subscribed: Callable[[], None]
    ) -> None:
        self._address = parse_address(url)
        self._channel = channel
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._wire: Wire | None = None
        self._lost = asyncio.Event()
        self._subscribed = asyncio.Event()
        self._heard = False
        self._refusal = ""
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """
        Raises:
            QueueUnavailable: not listening after a while; the subscription is closed again.
        """
        self._keeper = asyncio.create_task(self._keep(), name="subscription")
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._subscribed.wait()
        except TimeoutError:
            await self.close()
            raise Refused(f"cannot listen at Redis {self._address.shown} {self._refusal}".strip()) from None

    @property
    def listening(self) -> bool:
        return self._subscribed.is_set()

    async def _keep(self) -> None:
        failures = 0
        while True:
            self._lost.clear()
            try:
                self._wire = wire = await open_wire(self._address, self._on_reply, self._on_lost)
                for command in greeting(self._address):
                    wire.send(*command)
                wire.send("SUBSCRIBE", self._channel)
                await self._watch(wire)
                failures = 0
            except (OSError, QueueUnavailable) as error:
                failures += 1
                log.debug("cannot listen", extra={"redis": self._address.shown, "error": str(error)})
            await asyncio.sleep(BACKOFFS_S[min(failures, len(BACKOFFS_S) - 1)])

    async def _watch(self, wire: Wire) -> None:
        """Until the connection is lost, or silent in spite of a PING."""
        while not self._lost.is_set():
            self._heard = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_INTERVAL_S):
                    await self._lost.wait()
            if not self._heard and not self._lost.is_set():
                wire.send("PING")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CALL_TIMEOUT_S):
                        await self._lost.wait()
                if not self._heard:
                    wire.close()
                    await self._lost.wait()

    def _on_reply(self, reply: Reply) -> None:
        self._heard = True
        if isinstance(reply, list):
            if reply[0] == b"message":
                self._on_message(reply[2])
            elif reply[0] == b"subscribe":
                self._subscribed.set()
                self._on_subscribed()
        elif isinstance(reply, hiredis.ReplyError):
            self._refusal = str(reply)
            if self._wire is not None:
                self._wire.close()

    def _on_lost(self) -> None:
        self._wire = None
        self._subscribed.clear()
        self._lost.set()

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._wire is not None:
            self._wire.close()
            await self._lost.wait()
