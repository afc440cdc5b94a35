"""How durable what Redis acknowledges is: looked up once a second on a connection of its own, and never by a call.

Knows: which answers of Redis say it. Does not know: who wants to know.

`appendonly` and `appendfsync` are read with CONFIG GET, where the user may. The users of our roles may not (`sandlot.redis.acl`), since it
tells passwords as well. For them it is proved as far as it goes: a write that `WAITAOF` confirms is one that Redis syncs, so it is `everysec`
at least (unless no-appendfsync-on-rewrite is set, and a file is being rewritten). That it was on disk before it was acknowledged, `WAITAOF`
cannot tell: with `everysec` it confirms what has merely been written, too (flushAppendOnlyFile in Valkey's aof.c moves `fsynced_reploff` on
whenever there is nothing left to write).
"""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import Final, cast

import hiredis

from sandlot.errors import QueueUnavailable
from sandlot.redis import keys
from sandlot.redis.acl import Role, user_name
from sandlot.redis.connection import end_task, parse_address
from sandlot.redis.pipeline import RedisPipeline

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
_SYNCED_MS: Final = 2000
"""`everysec` has synced by then (or its disk is no longer that fast); shorter than the patience of a call."""
_ASKED: Final = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite")
_OUR_USERS: Final = {user_name(role) for role in Role}
"""They are not tried: each attempt would stand in the server's ACL log."""


class Durability(StrEnum):
    """What holds at least of a job that is acknowledged."""

    ALWAYS = "always"
    """It is on disk."""
    EVERYSEC = "everysec"
    """It is with the kernel, and on disk within about a second."""
    NONE = "none"
    """There is no append-only file, or Redis does not see to it that it reaches the disk."""
    UNKNOWN = "unknown"
    """Redis has not been asked yet, is away, or does not say."""


class DurabilityWatch:
    """`held` is as of the last look; one that gets no answer makes it unknown."""

    def __init__(self, link: RedisPipeline, *, may_ask: bool) -> None:
        """`may_ask`: whether the user may be one who has CONFIG GET."""
        self._link = link
        self._may_ask = may_ask
        self._task = asyncio.create_task(self._keep_looking(), name="durability")
        self.held = Durability.UNKNOWN

    @classmethod
    async def open(cls, url: str) -> DurabilityWatch:
        """
        Raises:
            QueueUnavailable: Redis cannot be reached or refuses us.
        """
        return cls(await RedisPipeline.open(url), may_ask=parse_address(url).username not in _OUR_USERS)

    async def _keep_looking(self) -> None:
        while True:
            before = self.held
            try:
                self.held = await self._look()
            except (QueueUnavailable, hiredis.ReplyError):
                self.held = Durability.UNKNOWN
            if self.held is not before:
                log.info("durability of redis", extra={"durability": self.held})
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> Durability:
        if self._may_ask:
            try:
                return await self._configured()
            except hiredis.ReplyError:
                self._may_ask = False  # as at most providers
        told = cast(bytes, await self._link.call("INFO", "persistence"))
        return Durability.NONE if b"aof_enabled:0" in told else await self._proved()

    async def _configured(self) -> Durability:
        flat = cast("list[bytes]", await self._link.call("CONFIG", "GET", *_ASKED))
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        synced = found[b"appendfsync"].decode()
        # With the last one, nothing is synced while a file is rewritten: what is not always so is not promised.
        if found[b"appendonly"] != b"yes" or synced == "no" or found[b"no-appendfsync-on-rewrite"] == b"yes":
            return Durability.NONE
        return Durability(synced)

    async def _proved(self) -> Durability:
        await self._link.call("SET", keys.DURABILITY, 1)
        try:
            synced, _ = cast("list[int]", await self._link.call("WAITAOF", 1, 0, _SYNCED_MS))
        except hiredis.ReplyError:
            return Durability.UNKNOWN  # Redis before 7.2
        return Durability.EVERYSEC if synced else Durability.NONE

    async def close(self) -> None:
        await end_task(self._task)
        await self._link.close()
