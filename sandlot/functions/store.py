"""Records and bundles of functions in Redis: one method per question, bytes in, bytes out.

Knows: keys, the two scripts, chunks. Does not know: what a record says, signatures, caches.
A bundle is written first, under its digest and with an expiry; one script then makes it a version, or does nothing at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from sandlot.errors import QueueUnavailable
from sandlot.functions.bundle import TOTAL_LIMIT_BYTES
from sandlot.jobs import keys

VERSIONS_KEPT: Final = 100
"""Per function; older ones can no longer be invoked. Saving a file all day must not fill Redis."""
CHUNK_BYTES: Final = 1024 * 1024
"""Redis serves nobody else while it copies one value; a MiB takes about 0.1 ms."""
UNUSED_TTL_S: Final = 3600
"""How long a bundle no version uses is kept: an upload that was never finished, or jobs of a version that was just dropped."""
_PACKED_LIMIT_BYTES: Final = 2 * TOTAL_LIMIT_BYTES
_SCRIPTS: Final = Path(__file__).parent.parent / "jobs" / "scripts"


class Recorded(NamedTuple):
    """The script's answer: `ok`, `missing` (upload the bundle first) or `conflict` (ask again with this number)."""

    status: bytes
    number: int
    created: int
    changed: int
    record: bytes


class Store:
    """Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._deploy = redis.register_script((_SCRIPTS / "deploy.lua").read_text(encoding="utf-8"))
        self._undeploy = redis.register_script((_SCRIPTS / "undeploy.lua").read_text(encoding="utf-8"))

    async def last_number(self, name: str) -> int:
        async with _answering():
            return int(await self._redis.hget(keys.FUNCTION + name, "last") or 0)

    async def latest_number(self, name: str) -> int | None:
        async with _answering():
            latest = await self._redis.hget(keys.FUNCTION + name, "latest")
        return int(latest) if latest else None

    async def number_of(self, name: str, digest: str) -> int | None:
        async with _answering():
            number = await self._redis.hget(keys.FUNCTION + name, f"d{digest}")
        return int(number) if number else None

    async def record(self, name: str, number: int) -> bytes | None:
        async with _answering():
            return cast("bytes | None", await self._redis.hget(keys.FUNCTION + name, f"v{number}"))

    async def records(self, name: str) -> dict[int, bytes]:
        async with _answering():
            fields = cast("dict[bytes, bytes]", await self._redis.hgetall(keys.FUNCTION + name))
        return {int(field[1:]): value for field, value in fields.items() if field.startswith(b"v")}

    async def names(self, after: str, limit: int) -> list[str]:
        """Names in order, at most `limit`, all of them after `after` ("" for the first)."""
        async with _answering():
            found = await self._redis.zrangebylex(keys.FUNCTIONS, f"({after}" if after else "-", "+", 0, limit)
        return [cast("bytes", name).decode() for name in found]

    async def deploy(self, name: str, digest: str, number: int, record: bytes, size: int) -> Recorded:
        """Make this digest the function's latest version, if its bundle of `size` bytes is stored and the number is the next."""
        functions = [keys.FUNCTIONS, keys.FUNCTION + name, keys.BUNDLE + digest, keys.BUNDLE_USERS + digest]
        prefixes = [keys.BUNDLE, keys.BUNDLE_USERS]
        async with _answering():
            answer = await self._deploy(
                keys=functions,
                args=[
                    name,
                    digest,
                    number,
                    record,
                    size,
                    VERSIONS_KEPT,
                    *prefixes,
                    UNUSED_TTL_S,
                    keys.FUNCTIONS_CHANGED,
                ],
            )
        return Recorded(*answer)

    async def undeploy(self, name: str) -> bool:
        """Whether there was such a function."""
        prefixes = [keys.BUNDLE, keys.BUNDLE_USERS]
        async with _answering():
            return bool(
                await self._undeploy(
                    keys=[keys.FUNCTIONS, keys.FUNCTION + name],
                    args=[name, *prefixes, UNUSED_TTL_S, keys.FUNCTIONS_CHANGED],
                )
            )

    async def upload(self, digest: str, packed: bytes) -> None:
        """Write a bundle in chunks; two who write the same digest write the same bytes."""
        key = keys.BUNDLE + digest
        async with _answering():
            for offset in range(0, len(packed), CHUNK_BYTES):
                await self._redis.setrange(key, offset, cast("str", packed[offset : offset + CHUNK_BYTES]))
                await self._redis.expire(key, UNUSED_TTL_S)

    async def download(self, digest: str) -> bytes:
        """The packed bundle, as it is stored; empty if it is not."""
        key = keys.BUNDLE + digest
        packed = bytearray()
        async with _answering():
            while len(packed) < _PACKED_LIMIT_BYTES:
                chunk = cast("bytes", await self._redis.getrange(key, len(packed), len(packed) + CHUNK_BYTES - 1))
                packed += chunk
                if len(chunk) < CHUNK_BYTES:
                    break
        return bytes(packed)


@contextlib.asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise QueueUnavailable(
            f"Redis did not do what the registry of functions asked: {error or type(error).__name__}"
        ) from error
