"""Store of functions' records and bundles in Redis: bytes in, bytes out.

A bundle is written first, under its digest and with an expiry. One script then makes it a version,
or changes nothing. Records are signed and verified in `registry.py`.
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
"""Versions kept per function unless a setting says otherwise; older ones can no longer be named.

A day of saving the same file must not fill Redis.
"""
FAILED_KEPT: Final = 10
"""Versions kept per function whose dependencies could not be resolved, so that the reason can still
be read."""
CHUNK_BYTES: Final = 1024 * 1024
"""Redis is blocked while it copies one value; 1 MiB takes about 0.1 ms."""
RETIRED_MS: Final = 60_000
"""How long a retired version keeps its record.

That is longer than a call can take between finding its version and being queued (30 s for its body,
3 s of waiting for Redis).
"""
JOBS_SCAN_LIMIT: Final = 10_000
"""Waiting jobs that a prune reads at most.

They block Redis for about 20 ms. While more jobs wait, old versions stay.
"""
UNUSED_TTL_S: Final = 3600
"""How long a bundle is kept that no version uses: of an upload that was never finished, or for jobs
of a version that was just dropped."""
_CHUNKS_LIMIT: Final = 2 * TOTAL_LIMIT_BYTES // CHUNK_BYTES


class DeployReply(NamedTuple):
    """Reply of deploy.lua.

    `status` is `ok`, `missing` (upload the bundle first), `conflict` (call again with this number)
    or `stale` (the function is at another revision).
    """

    status: bytes
    number: int
    created: int = 0
    changed: int = 0
    record: bytes = b""
    revision: bytes = b""
    active: int = 1


class PendingRecord(NamedTuple):
    """Record of a version that is not active.

    `reason` is set if its dependencies cannot be resolved; until then `progress` is that of the
    build.
    """

    record: bytes
    reason: str | None
    progress: str


class StoredFunction(NamedTuple):
    """All records of a function, at one moment."""

    latest: int | None
    """None until the first version is complete."""
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
        """Return the record of a version, even of a retired one."""
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
        """Return the record of a version that is not active yet or could not be activated."""
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
        """Return the signed lock of a version, empty if there is none."""
        async with answering():
            return cast("bytes | None", await self._redis.get(keys.LOCK + digest)) or b""

    async def names(self, after: str, limit: int) -> list[str]:
        """Return at most `limit` names in order, all of them after `after` ("" for the first)."""
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
        owner: str = "",
    ) -> DeployReply:
        """Make this digest the function's latest version, or change nothing.

        The bundle of `size` bytes must be stored, the number must be the next one, and the function
        must be at this revision ("" for any, "*" for any of an existing function).

        Args:
            build_at: placement of the workers that resolve its dependencies; "" for a version
                without.
            lock: lock for this version, signed; if the version has none yet, this one counts and
                nothing is left to resolve.
            owner: of the key that deploys; builds are shared out fairly between owners.
        """
        build = [keys.LOCK + digest, keys.BUILDS + build_at, keys.BUILD + digest]
        channels: list[str | int] = [keys.FUNCTIONS_CHANGED, int(bool(build_at)), keys.BUILDS_CHANGED, build_at]
        async with answering():
            reply = await self._deploy_script(
                keys=[keys.FUNCTIONS, keys.FUNCTION + name, keys.BUNDLE + digest, keys.BUNDLE_USERS + digest, *build],
                args=[name, digest, number, record, -(-size // CHUNK_BYTES), revision, *channels, lock, owner],
            )
        return DeployReply(*reply)

    async def set_alias(self, name: str, alias: str, text: bytes, revision: str, numbers: Sequence[int]) -> list[bytes]:
        """Run alias.lua and return its reply; an empty text removes the alias."""
        async with answering():
            reply = await self._alias_script(
                keys=[keys.FUNCTION + name],
                args=[name, alias, text, revision, keys.FUNCTIONS_CHANGED, LATEST, *numbers],
            )
        return cast("list[bytes]", reply)

    async def prune(self, name: str, kept: int) -> tuple[int, int]:
        """Return how many old versions were retired and how many forgotten (see prune.lua)."""
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
        """Run undeploy.lua and return its reply."""
        prefixes = [keys.BUNDLE, keys.BUNDLE_USERS]
        async with answering():
            return int(
                await self._undeploy_script(
                    keys=[keys.FUNCTIONS, keys.FUNCTION + name],
                    args=[name, *prefixes, UNUSED_TTL_S, keys.FUNCTIONS_CHANGED, revision, keys.LOCK],
                )
            )

    async def upload(self, digest: str, packed: bytes) -> None:
        """Write a bundle in chunks.

        Concurrent uploads of one digest are harmless: they write the same bytes.
        """
        key = keys.BUNDLE + digest
        async with answering():
            for index, offset in enumerate(range(0, len(packed), CHUNK_BYTES)):
                chunk = await asyncio.to_thread(zlib.compress, packed[offset : offset + CHUNK_BYTES], 1)
                await self._redis.hset(key, str(index), cast("str", chunk))
                await self._redis.expire(key, UNUSED_TTL_S)

    async def download(self, digest: str) -> bytes:
        """Return the packed bundle, empty if it is not stored.

        Where a chunk is missing, the rest is cut off: the caller must compare the digest.
        """
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
    """Return at most one chunk, whatever was stored.

    Damaged data is returned as it is and fails the digest check.
    """
    try:
        return zlib.decompressobj().decompress(chunk, CHUNK_BYTES)
    except zlib.error:
        return chunk[:CHUNK_BYTES]
