"""A Pub/Sub subscription that renews itself.

Redis publishes to the clients that are subscribed at that moment and never repeats a message
(PUBLISH, redis.io). After every (re)subscription the owner is notified, so that it can read what it
may have missed.
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
from sandlot.redis.pipeline import BACKOFFS_S, Refused, Reply, RespConnection, handshake, open_resp_connection

log = logging.getLogger(__name__)

PING_INTERVAL_S: Final = 5.0
"""A subscriber without messages cannot distinguish silence from a dead peer, so it sends PING."""


class Subscription:
    """A subscription to one channel until it is closed.

    `on_message` gets each payload. `on_subscribed` is called after each subscription, the first
    included.
    """

    def __init__(
        self, url: str, channel: str, on_message: Callable[[bytes], None], on_subscribed: Callable[[], None]
    ) -> None:
        self._address = parse_address(url)
        self._channel = channel
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._connection: RespConnection | None = None
        self._lost = asyncio.Event()
        self._subscribed = asyncio.Event()
        self._heard = False
        self._refusal = ""
        self._subscriber: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Subscribe.

        Raises:
            QueueUnavailable: no subscription within `CALL_TIMEOUT_S`; it is closed again.
        """
        self._subscriber = asyncio.create_task(self._subscribe_forever(), name="subscription")
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._subscribed.wait()
        except TimeoutError:
            await self.close()
            raise Refused(f"cannot subscribe at Redis {self._address.shown} {self._refusal}".strip()) from None

    @property
    def subscribed(self) -> bool:
        return self._subscribed.is_set()

    async def _subscribe_forever(self) -> None:
        failures = 0
        while True:
            self._lost.clear()
            try:
                self._connection = connection = await open_resp_connection(self._address, self._on_reply, self._on_lost)
                for command in handshake(self._address):
                    connection.send(*command)
                connection.send("SUBSCRIBE", self._channel)
                await self._wait_until_lost(connection)
                failures = 0
            except (OSError, QueueUnavailable) as error:
                failures += 1
                log.debug("cannot subscribe", extra={"redis": self._address.shown, "error": str(error)})
            await asyncio.sleep(BACKOFFS_S[min(failures, len(BACKOFFS_S) - 1)])

    async def _wait_until_lost(self, connection: RespConnection) -> None:
        """Wait until the connection is lost or a PING stays unanswered."""
        while not self._lost.is_set():
            self._heard = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_INTERVAL_S):
                    await self._lost.wait()
            if not self._heard and not self._lost.is_set():
                connection.send("PING")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CALL_TIMEOUT_S):
                        await self._lost.wait()
                if not self._heard:
                    connection.close()
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
            if self._connection is not None:
                self._connection.close()

    def _on_lost(self) -> None:
        self._connection = None
        self._subscribed.clear()
        self._lost.set()

    async def close(self) -> None:
        if self._subscriber is not None:
            self._subscriber.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._subscriber
        if self._connection is not None:
            self._connection.close()
            await self._lost.wait()
