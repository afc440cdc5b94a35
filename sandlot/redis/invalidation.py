"""Cache invalidation by Pub/Sub: one channel whose messages are names of changed entries."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from sandlot.redis.connection import end_task

_PING_EVERY_S: Final = 5.0
_SILENCE_S: Final = 12.0
"""After two unanswered pings the connection is dead, whatever the kernel says."""
_RETRY_S: Final = 0.5

_log = logging.getLogger(__name__)


class Invalidation:
    """A subscription that calls `changed(name)` for every message and `changed(None)` whenever
    messages may have been missed."""

    def __init__(self, redis: Redis, channel: str, changed: Callable[[str | None], None]) -> None:
        self._redis = redis
        self._channel = channel
        self._changed = changed
        self.alive_until_s = float("-inf")
        """The time by `time.monotonic` until which every change reaches this process, because the
        subscription answered within the last seconds."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name=f"invalidation {self._channel}")

    async def stop(self) -> None:
        await end_task(self._task)
        self._task = None

    async def _listen(self) -> None:
        while True:
            try:
                await self._subscribe()
            except (RedisError, OSError, TimeoutError) as error:
                was_alive = self.alive_until_s > float("-inf")
                level = logging.WARNING if was_alive else logging.DEBUG  # Log an outage once.
                self.alive_until_s = float("-inf")
                _log.log(
                    level,
                    "invalidation subscription lost",
                    extra={"channel": self._channel, "reason": str(error) or type(error).__name__},
                )
            await asyncio.sleep(_RETRY_S)

    async def _subscribe(self) -> None:
        """Listen until the connection fails (raises) or goes silent (returns)."""
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(self._channel)
            heard_s = time.monotonic()
            while time.monotonic() - heard_s < _SILENCE_S:
                message = await pubsub.get_message(timeout=_PING_EVERY_S)
                if message is None:
                    await pubsub.ping()
                    continue
                heard_s = self._on_message(message["type"], message["data"])
        self.alive_until_s = float("-inf")

    def _on_message(self, kind: str, data: object) -> float:
        heard_s = time.monotonic()
        self.alive_until_s = heard_s + _SILENCE_S
        if kind == "subscribe":
            self._changed(None)  # Changes before the subscription were not published to this client.
        elif kind == "message" and isinstance(data, bytes):
            self._changed(data.decode("utf-8", "replace"))
        return heard_s
