"""Large results: stored once, in chunks, each of which is verified before it is returned.

A worker stores the chunks before it records the outcome (`put_result_chunk.lua`), under the number
of its attempt. Recording the outcome (`settle_and_claim.lua`) gives them the job's time to live.
They are raw bytes: reading a part or the whole takes one command and one chunk of memory at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from io import BytesIO
from typing import Final, cast

import msgspec

from sandlot.errors import JobGone, UnsafeRecord
from sandlot.offload import offload
from sandlot.redis import keys
from sandlot.redis.pipeline import Reply

LARGE_RESULT_BYTES: Final = 262144
"""A longer result is stored in chunks. Up to this size it travels in the message to the waiters and
in RQ's stream; `PUBLISH_LIMIT_BYTES` in `prelude.lua` says why."""
CHUNK_BYTES: Final = 262144
"""The size of a stored chunk. Another number is another layout (`sandlot.redis.schema`). Sending or
hashing this much holds the event loop for well under a millisecond."""
_DIGEST_BYTES: Final = 32


class StoredResult(msgspec.Struct, frozen=True):
    """A worker's signed description of a large result. `digests` is the concatenation of each
    chunk's SHA-256; `sha256`, in hex, is that of the whole."""

    job_id: str
    attempt: int
    size_bytes: int
    sha256: str
    digests: bytes

    @property
    def key(self) -> str:
        return f"{keys.RESULT}{self.job_id}:{self.attempt}"

    @property
    def chunk_count(self) -> int:
        return len(self.digests) // _DIGEST_BYTES

    def digest(self, number: int) -> bytes:
        return self.digests[number * _DIGEST_BYTES :][:_DIGEST_BYTES]


def split_chunks(result: bytes) -> Iterator[memoryview]:
    """Yield the chunks of a result as views, without copying."""
    view = memoryview(result)
    return (view[start : start + CHUNK_BYTES] for start in range(0, len(result), CHUNK_BYTES))


def digests_of(result: bytes) -> tuple[str, bytes]:
    """Return `StoredResult.sha256` and `StoredResult.digests`.

    hashlib releases Python's lock while it hashes, so the whole is hashed in one call.
    """
    chunks = split_chunks(result)
    return hashlib.sha256(result).hexdigest(), b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)


class LargeResults:
    """Reads stored results."""

    def __init__(self, call: Callable[..., Awaitable[Reply]]) -> None:
        """
        Args:
            call: sends one command, as `RedisPipeline.call` does.
        """
        self._call = call

    async def chunk(self, stored: StoredResult, number: int) -> bytes:
        """Return one verified chunk.

        Raises:
            JobGone: the result is no longer kept.
            UnsafeRecord: it is not what the worker signed.
            QueueUnavailable
        """
        chunk = cast("bytes | None", await self._call("HGET", stored.key, number))
        if chunk is None:
            raise JobGone(f"the result of job {stored.job_id} is no longer kept")
        if await offload(len(chunk), _digest, chunk) != stored.digest(number):
            raise UnsafeRecord(
                f"chunk {number} of the recorded result of job {stored.job_id} is not the one its worker signed"
            )
        return chunk

    async def read(self, stored: StoredResult, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` up to `stop`, chunk by chunk, each of them verified.

        Raises:
            JobGone, UnsafeRecord, QueueUnavailable: as `chunk`, at any chunk.
        """
        for number in range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)):
            chunk = await self.chunk(stored, number)
            begin = number * CHUNK_BYTES
            if start > begin or stop < begin + len(chunk):
                chunk = chunk[max(0, start - begin) : stop - begin]
            yield chunk

    async def whole(self, stored: StoredResult) -> bytes:
        """Return the whole result, for callers that cannot use a part.

        Raises:
            JobGone, UnsafeRecord, QueueUnavailable
        """
        result = BytesIO()
        async for chunk in self.read(stored, 0, stored.size_bytes):
            result.write(chunk)
        return result.getvalue()


def _digest(chunk: bytes) -> bytes:
    return hashlib.sha256(chunk).digest()
