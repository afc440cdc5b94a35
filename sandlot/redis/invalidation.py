"""Tell a cache what changed elsewhere, and whether it can rely on being told.

Knows: one pub/sub channel whose messages are names, and how to notice that it went silent. Does not know: what the names are of.
"""

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
"""Two pings without an answer: the connection is dead, whatever the kernel thinks of it."""
_RETRY_S: Final = 0.5

_log = logging.getLogger(__name__)


class Invalidation:
    """Calls `changed(name)` for every message, and `changed(None)` whenever messages may have been missed."""

    def __init__(self, redis: Redis, channel: str, changed: Callable[[str | None], None]) -> None:
        self._redis = redis
        self._channel = channel
        self._changed = changed
        self._heard_s = float("-inf")
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether a change made now would reach us: subscribed, and heard of within the last seconds."""
        return time.monotonic() - self._heard_s < _SILENCE_S

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name=f"push {self._channel}")

    async def stop(self) -> None:
        await end_task(self._task)
        self._task = None

    async def _listen(self) -> None:
        while True:
            try:
                await self._subscription()
            except (RedisError, OSError, TimeoutError) as error:
                level = logging.WARNING if self._heard_s > float("-inf") else logging.DEBUG  # an outage is said once
                self._heard_s = float("-inf")
                _log.log(
                    level, "push lost", extra={"channel": self._channel, "reason": str(error) or type(error).__name__}
                )
            await asyncio.sleep(_RETRY_S)

    async def _subscription(self) -> None:
        """Listen until the connection fails (raises) or goes silent (returns)."""
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(self._channel)
            asked_s = time.monotonic()
            while time.monotonic() - asked_s < _SILENCE_S:
                message = await pubsub.get_message(timeout=_PING_EVERY_S)
                if message is None:
                    await pubsub.ping()
                    continue
                asked_s = self._hear(message["type"], message["data"])
        self._heard_s = float("-inf")

    def _hear(self, kind: str, data: object) -> float:
        self._heard_s = time.monotonic()
        if kind == "subscribe":
            self._changed(None)  # whatever happened before the subscription was not told to us
        elif kind == "message" and isinstance(data, bytes):
            self._changed(data.decode("utf-8", "replace"))
        return self._heard_s
