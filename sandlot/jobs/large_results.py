"""Large results: kept once, in pieces, each of which is checked before anybody gets to see it.

Knows: how a result is split_chunks, what its signed end says of the pieces, where they are in Redis. Does not know: HTTP, steps.
A worker stores the pieces before it records the end (put_result_chunk.lua), under the number of its attempt, and recording the end (settle_and_claim.lua) makes them
last as long as the job. They are raw bytes: what is read, in part or whole, needs one command a piece, and no more memory than a piece.
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
"""A result that is longer is stored in pieces; up to this it is in the message to who waits, and in RQ's stream (`PUBLISH_LIMIT_BYTES` in
prelude.lua says why)."""
CHUNK_BYTES: Final = 262144
"""How results in Redis are split_chunks: another number is another layout (sandlot.redis.schema). Sending or hashing so many bytes takes the loop well
under a millisecond."""
_DIGEST_BYTES: Final = 32


class StoredResult(msgspec.Struct, frozen=True):
    """What a worker signed of a large result. `digests`: the SHA-256 of each piece, one behind the other; `sha256`, in hex, is of the whole."""

    job_id: str
    attempt: int
    size_bytes: int
    sha256: str
    digests: bytes

    @property
    def key(self) -> str:
        return f"{keys.RESULT}{self.job_id}:{self.attempt}"

    @property
    def pieces(self) -> int:
        return len(self.digests) // _DIGEST_BYTES

    def digest(self, number: int) -> bytes:
        return self.digests[number * _DIGEST_BYTES :][:_DIGEST_BYTES]


def split_chunks(result: bytes) -> Iterator[memoryview]:
    """The pieces of a result, none of it copied."""
    view = memoryview(result)
    return (view[start : start + CHUNK_BYTES] for start in range(0, len(result), CHUNK_BYTES))


def digests_of(result: bytes) -> tuple[str, bytes]:
    """`StoredResult.sha256` and `StoredResult.digests`. hashlib lets other threads run meanwhile, so it need not be done piece by piece."""
    return hashlib.sha256(result).hexdigest(), b"".join(
        hashlib.sha256(piece).digest() for piece in split_chunks(result)
    )


class LargeResults:
    """Reads what was stored. `call` sends one command, as `Link.call` does."""

    def __init__(self, call: Callable[..., Awaitable[Reply]]) -> None:
        self._call = call

    async def piece(self, stored: StoredResult, number: int) -> bytes:
        """
        Raises:
            JobGone: it is no longer kept.
            UnsafeRecord: it is not what the worker signed.
            QueueUnavailable
        """
        piece = cast("bytes | None", await self._call("HGET", stored.key, number))
        if piece is None:
            raise JobGone(f"the result of job {stored.job_id} is no longer kept")
        if await offload(len(piece), _digest, piece) != stored.digest(number):
            raise UnsafeRecord(
                f"piece {number} of the recorded result of job {stored.job_id} is not the one its worker signed"
            )
        return piece

    async def read(self, stored: StoredResult, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `stop`, piece by piece; none that was not checked.

        Raises:
            JobGone, UnsafeRecord, QueueUnavailable: as `piece`, at any piece.
        """
        for number in range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)):
            piece = await self.piece(stored, number)
            begin = number * CHUNK_BYTES
            if start > begin or stop < begin + len(piece):
                piece = piece[max(0, start - begin) : stop - begin]
            yield piece

    async def whole(self, stored: StoredResult) -> bytes:
        """For who can do nothing with a part.

        Raises:
            JobGone, UnsafeRecord, QueueUnavailable
        """
        result = BytesIO()
        async for piece in self.read(stored, 0, stored.size_bytes):
            result.write(piece)
        return result.getvalue()


def _digest(piece: bytes) -> bytes:
    return hashlib.sha256(piece).digest()
