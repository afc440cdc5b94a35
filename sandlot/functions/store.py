"""Records and bundles of functions in Redis: one method per question, bytes in, bytes out.

Knows: keys, the scripts, chunks. Does not know: what a record says, signatures, caches.
A bundle is written first, under its digest and with an expiry; one script then makes it a version, or does nothing at all.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

from redis.asyncio import Redis

from sandlot.functions.bundle import TOTAL_LIMIT_BYTES
from sandlot.models import LATEST
from sandlot.redis import keys
from sandlot.redis.connection import answering
from sandlot.redis.lua import function_script

VERSIONS_KEPT: Final = 100
"""Per function, unless a setting says otherwise; older ones can no longer be named. Saving a file all day must not fill Redis."""
FAILED_KEPT: Final = 10
"""Per function: versions whose dependencies could not be had, so that one can still look up why."""
CHUNK_BYTES: Final = 1024 * 1024
"""Redis serves nobody else while it copies one value; a MiB takes about 0.1 ms."""
RETIRED_MS: Final = 60_000
"""Longer than a call can be on its way between finding its version and being queued (30 s for its body, 3 s of patience with Redis)."""
JOBS_SCAN_LIMIT: Final = 10_000
"""About 20 ms in which Redis serves nobody else; with more jobs waiting, old versions stay until there are fewer."""
UNUSED_TTL_S: Final = 3600
"""How long a bundle no version uses is kept: an upload that was never finished, or jobs of a version that was just dropped."""
_CHUNKS_LIMIT: Final = 2 * TOTAL_LIMIT_BYTES // CHUNK_BYTES


class DeployReply(NamedTuple):
    """The script's answer: `ok`, `missing` (upload the bundle first), `conflict` (ask again with this number) or `stale` (another revision)."""

    status: bytes
    number: int
    created: int = 0
    changed: int = 0
    record: bytes = b""
    revision: bytes = b""
    active: int = 1


class PendingRecord(NamedTuple):
    """A version whose dependencies are not there: why, if they cannot be had, else how far the build is."""

    record: bytes
    reason: str | None
    progress: str


class StoredFunction(NamedTuple):
    """All that is recorded of a function, at one moment."""

    latest: int | None
    """None: no version of it was ever complete."""
    revision: str
    records: dict[int, bytes]
    aliases: dict[str, bytes]
    pending: dict[int, tuple[bytes, str | None]]


class FunctionStore:
    """Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._deploy_script = redis.register_script(function_script("revision", "deploy"))
        self._alias_script = redis.register_script(function_script("revision", "alias"))
        self._prune_script = redis.register_script(function_script("prune"))
        self._undeploy_script = redis.register_script(function_script("revision", "undeploy"))

    async def last_number(self, name: str) -> int:
        async with answering():
            return int(await self._redis.hget(keys.FUNCTION + name, "last") or 0)

    async def latest_number(self, name: str) -> int | None:
        async with answering():
            latest = await self._redis.hget(keys.FUNCTION + name, "latest")
        return int(latest) if latest else None

    async def number_of(self, name: str, digest: str) -> int | None:
        async with answering():
            number = await self._redis.hget(keys.FUNCTION + name, f"d{digest}")
        return int(number) if number else None

    async def record(self, name: str, number: int) -> bytes | None:
        async with answering():
            return cast("bytes | None", await self._redis.hget(keys.FUNCTION + name, f"v{number}"))

    async def any_record(self, name: str, number: int) -> bytes | None:
        """The same, if the version is retired as well."""
        async with answering():
            found = await self._redis.hmget(keys.FUNCTION + name, [f"v{number}", f"r{number}"])
        return cast("bytes | None", found[1] if found[0] is None else found[0])

    async def alias(self, name: str, alias: str) -> bytes | None:
        async with answering():
            return cast("bytes | None", await self._redis.hget(keys.FUNCTION + name, f"a{alias}"))

    async def function(self, name: str) -> StoredFunction | None:
        async with answering():
            fields = cast("dict[bytes, bytes]", await self._redis.hgetall(keys.FUNCTION + name))
        if b"last" not in fields:
            return None
        return StoredFunction(
            latest=int(fields[b"latest"]) if b"latest" in fields else None,
            revision=fields.get(b"revision", b"").decode(),
            records={int(field[1:]): value for field, value in fields.items() if field.startswith(b"v")},
            aliases={field[1:].decode(): value for field, value in fields.items() if field.startswith(b"a")},
            pending={
                int(field[1:]): (value, _text(fields.get(b"f" + field[1:])))
                for field, value in fields.items()
                if field.startswith(b"p")
            },
        )

    async def pending(self, name: str, number: int) -> PendingRecord | None:
        """A version that is not active yet, or could not be made so."""
        async with answering():
            found = await self._redis.hmget(keys.FUNCTION + name, [f"p{number}", f"f{number}", f"g{number}"])
            record, reason, digest = cast("list[bytes | None]", found)
            if record is None or digest is None:
                return None
            progress = cast("bytes | None", await self._redis.hget(keys.BUILD + digest.decode(), "progress"))
        return PendingRecord(record, _text(reason), _text(progress) or "")

    async def wanted_number(self, name: str) -> int | None:
        async with answering():
            wanted = await self._redis.hget(keys.FUNCTION + name, "wanted")
        return int(wanted) if wanted else None

    async def lock(self, digest: str) -> bytes:
        """The signed lock of a version; empty if there is none."""
        async with answering():
            return cast("bytes | None", await self._redis.get(keys.LOCK + digest)) or b""

    async def names(self, after: str, limit: int) -> list[str]:
        """Names in order, at most `limit`, all of them after `after` ("" for the first)."""
        async with answering():
            found = await self._redis.zrangebylex(keys.FUNCTIONS, f"({after}" if after else "-", "+", 0, limit)
        return [cast("bytes", name).decode() for name in found]

    async def deploy(
        self,
        name: str,
        digest: str,
        number: int,
        record: bytes,
        size: int,
        revision: str = "",
        *,
        build_at: str = "",
        lock: bytes = b"",
    ) -> DeployReply:
        """Make this digest the function's latest version, if its bundle of `size` bytes is stored, the number is the next, and the
        function is at this revision ("" for whichever, "*" for any but none).

        Args:
            build_at: the placement of workers to resolve its dependencies; "" for a version that has none.
            lock: what they are to be, signed for this version; it counts if there is none yet, and then nothing is left to resolve.
        """
        build = [keys.LOCK + digest, keys.BUILDS + build_at, keys.BUILD + digest]
        channels: list[str | int] = [keys.FUNCTIONS_CHANGED, int(bool(build_at)), keys.BUILDS_CHANGED, build_at]
        async with answering():
            answer = await self._deploy_script(
                keys=[keys.FUNCTIONS, keys.FUNCTION + name, keys.BUNDLE + digest, keys.BUNDLE_USERS + digest, *build],
                args=[name, digest, number, record, -(-size // CHUNK_BYTES), revision, *channels, lock],
            )
        return DeployReply(*answer)

    async def set_alias(self, name: str, alias: str, text: bytes, revision: str, numbers: Sequence[int]) -> list[bytes]:
        """What alias.lua answers; without a text the alias is removed."""
        async with answering():
            answer = await self._alias_script(
                keys=[keys.FUNCTION + name],
                args=[name, alias, text, revision, keys.FUNCTIONS_CHANGED, LATEST, *numbers],
            )
        return cast("list[bytes]", answer)

    async def prune(self, name: str, kept: int) -> tuple[int, int]:
        """How many old versions were retired and how many forgotten (prune.lua says what that means)."""
        ours: list[str | int] = [
            keys.BUNDLE,
            keys.BUNDLE_USERS,
            UNUSED_TTL_S,
            RETIRED_MS,
            JOBS_SCAN_LIMIT,
            keys.FUNCTIONS_CHANGED,
        ]
        queue: list[str | int] = [
            keys.QUEUE,
            keys.SCHEDULED,
            keys.STARTED,
            keys.JOB,
            keys.ENVELOPE,
            keys.LOCK,
            FAILED_KEPT,
        ]
        async with answering():
            retired, forgotten = await self._prune_script(keys=[keys.FUNCTION + name], args=[name, kept, *ours, *queue])
        return int(retired), int(forgotten)

    async def undeploy(self, name: str, revision: str) -> int:
        """What undeploy.lua answers."""
        prefixes = [keys.BUNDLE, keys.BUNDLE_USERS]
        async with answering():
            return int(
                await self._undeploy_script(
                    keys=[keys.FUNCTIONS, keys.FUNCTION + name],
                    args=[name, *prefixes, UNUSED_TTL_S, keys.FUNCTIONS_CHANGED, revision, keys.LOCK],
                )
            )

    async def upload(self, digest: str, packed: bytes) -> None:
        """Write a bundle in chunks; two who write the same digest write the same bytes."""
        key = keys.BUNDLE + digest
        async with answering():
            for index, offset in enumerate(range(0, len(packed), CHUNK_BYTES)):
                chunk = await asyncio.to_thread(zlib.compress, packed[offset : offset + CHUNK_BYTES], 1)
                await self._redis.hset(key, str(index), cast("str", chunk))
                await self._redis.expire(key, UNUSED_TTL_S)

    async def download(self, digest: str) -> bytes:
        """The packed bundle, as it was uploaded; empty if it is not stored, and cut short where it is damaged: digest it."""
        packed = bytearray()
        async with answering():
            for index in range(_CHUNKS_LIMIT):
                chunk = cast("bytes | None", await self._redis.hget(keys.BUNDLE + digest, str(index)))
                if chunk is None:
                    break
                packed += await asyncio.to_thread(_inflate, chunk)
        return bytes(packed)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _inflate(chunk: bytes) -> bytes:
    """Never more than a chunk, whatever was put there; one that was damaged as it is, which no digest will fit."""
    try:
        return zlib.decompressobj().decompress(chunk, CHUNK_BYTES)
    except zlib.error:
        return chunk[:CHUNK_BYTES]
