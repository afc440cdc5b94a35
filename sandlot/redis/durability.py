"""The durability of acknowledged writes, checked once a second on a connection of its own.

If the user may run CONFIG GET, `appendonly` and `appendfsync` are read. The users of Sandlot's
roles may not (`sandlot.redis.acl`), because CONFIG GET shows passwords as well. For them,
durability is proved as far as possible: Redis syncs a write that WAITAOF confirms, so it is at
least `everysec` (unless no-appendfsync-on-rewrite is set and a rewrite runs). WAITAOF cannot show
that a write was on disk before it was acknowledged: with `everysec` it also confirms writes that
were only written (flushAppendOnlyFile in Valkey's aof.c advances `fsynced_reploff` whenever nothing
is left to write).
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

CHECK_INTERVAL_S: Final = 1.0
_SYNCED_MS: Final = 2000
"""By then `everysec` has synced, unless the disk is too slow; shorter than `CALL_TIMEOUT_S`."""
_OPTIONS: Final = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite")
_ROLE_USERS: Final = {user_name(role) for role in Role}
"""CONFIG GET is not tried for these: each attempt would add an entry to the server's ACL log."""


class Durability(StrEnum):
    """The least durability of an acknowledged job."""

    ALWAYS = "always"
    """It is on disk."""
    EVERYSEC = "everysec"
    """The kernel has it; it is on disk within about a second."""
    NONE = "none"
    """Redis keeps no append-only file, or Redis does not sync it."""
    UNKNOWN = "unknown"
    """Redis was not asked yet, is away, or does not say."""


class DurabilityWatch:
    """Checks durability in the background. `held` is the result of the last check; `UNKNOWN` if
    Redis did not answer."""

    def __init__(self, pipeline: RedisPipeline, *, may_ask: bool) -> None:
        """
        Args:
            may_ask: whether the user may have CONFIG GET.
        """
        self._pipeline = pipeline
        self._may_ask = may_ask
        self._task = asyncio.create_task(self._check_forever(), name="durability")
        self.held = Durability.UNKNOWN

    @classmethod
    async def open(cls, url: str) -> DurabilityWatch:
        """Connect and begin to check.

        Raises:
            QueueUnavailable: Redis cannot be reached or refuses the connection.
        """
        return cls(await RedisPipeline.open(url), may_ask=parse_address(url).username not in _ROLE_USERS)

    async def _check_forever(self) -> None:
        while True:
            before = self.held
            try:
                self.held = await self._check()
            except (QueueUnavailable, hiredis.ReplyError):
                self.held = Durability.UNKNOWN
            if self.held is not before:
                log.info("durability of redis", extra={"durability": self.held})
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def _check(self) -> Durability:
        if self._may_ask:
            try:
                return await self._configured()
            except hiredis.ReplyError:
                self._may_ask = False  # As with most hosted Redis services.
        info = cast(bytes, await self._pipeline.call("INFO", "persistence"))
        return Durability.NONE if b"aof_enabled:0" in info else await self._proved()

    async def _configured(self) -> Durability:
        flat = cast("list[bytes]", await self._pipeline.call("CONFIG", "GET", *_OPTIONS))
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        synced = found[b"appendfsync"].decode()
        # With no-appendfsync-on-rewrite nothing is synced during a rewrite: do not promise more.
        if found[b"appendonly"] != b"yes" or synced == "no" or found[b"no-appendfsync-on-rewrite"] == b"yes":
            return Durability.NONE
        return Durability(synced)

    async def _proved(self) -> Durability:
        await self._pipeline.call("SET", keys.DURABILITY, 1)
        try:
            synced, _ = cast("list[int]", await self._pipeline.call("WAITAOF", 1, 0, _SYNCED_MS))
        except hiredis.ReplyError:
            return Durability.UNKNOWN  # Redis before 7.2 has no WAITAOF.
        return Durability.EVERYSEC if synced else Durability.NONE

    async def close(self) -> None:
        await end_task(self._task)
        await self._pipeline.close()
