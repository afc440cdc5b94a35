"""Jobs that were to be run again and will not be: look at them, take them up once more, let them go.

Knows: the index of dead letters, in which order it is read. Does not know: when a job becomes one (prelude.lua), who may see it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import uuid
from collections.abc import Awaitable, Callable
from typing import Final, cast

import msgspec

from sandlot.errors import CallerError
from sandlot.jobs.envelope import Envelope, unseal
from sandlot.jobs.inspection import JOB_FIELDS, JobRecord, record_from
from sandlot.redis import keys
from sandlot.redis.pipeline import Reply

LOOK_LIMIT: Final = 1500
"""Letters that one page looks at, for those that whoever asks may see; more than can be written in one millisecond (a worker has 1,024 slots)."""
CHUNK: Final = 100
"""Of them read together; Redis answers others in between."""

Call = Callable[..., Awaitable[Reply]]


class DeadLetterPage(msgspec.Struct, frozen=True):
    """`next`: the cursor of the page after, which is older; nothing at the end. A page may be empty and have one."""

    letters: list[JobRecord]
    next: str | None


class DeadLetters:
    """Every method raises QueueUnavailable when Redis does not answer, and UnsafeRecord for a record that was tampered with."""

    def __init__(self, call: Call, signing_key: bytes) -> None:
        self._call = call
        self._key = signing_key

    async def page(self, sees: Callable[[JobRecord], bool], *, limit: int = 50, cursor: str = "") -> DeadLetterPage:
        """Newest first, those that `sees` says yes to.

        Raises:
            CallerError: the cursor is none of ours.
        """
        newest, after = _read_cursor(cursor)
        flat = cast(
            "list[bytes]",
            await self._call(
                "ZRANGE", keys.DEAD_LETTERS, newest, "-inf", "BYSCORE", "REV", "LIMIT", 0, LOOK_LIMIT, "WITHSCORES"
            ),
        )
        found = [(name.decode(), int(float(score))) for name, score in zip(flat[::2], flat[1::2], strict=True)]
        # Of one millisecond those that come later in the alphabet come first (ZRANGE, redis.io).
        left = [(job_id, died_ms) for job_id, died_ms in found if str(died_ms) != newest or job_id < after]
        letters: list[JobRecord] = []
        for start in range(0, len(left), CHUNK):
            chunk = left[start : start + CHUNK]
            records = await asyncio.gather(*(self._read(job_id) for job_id, _ in chunk))
            for (job_id, died_ms), record in zip(chunk, records, strict=True):
                if record is not None and sees(record):
                    letters.append(record)
                if len(letters) == limit:
                    return DeadLetterPage(letters, f"{died_ms}-{job_id}")
        more = left and len(found) == LOOK_LIMIT
        return DeadLetterPage(letters, f"{left[-1][1]}-{left[-1][0]}" if more else None)

    async def get(self, job_id: str) -> JobRecord | None:
        """The job, if it is a dead letter."""
        if await self._call("ZSCORE", keys.DEAD_LETTERS, job_id) is None:
            return None
        return await self._read(job_id)

    async def _read(self, job_id: str) -> JobRecord | None:
        fields = cast("list[bytes | None]", await self._call("HMGET", keys.JOB + job_id, *JOB_FIELDS))
        return record_from(self._key, job_id, fields)

    async def unseal(self, job_id: str) -> tuple[Envelope, bytes] | None:
        """What the job was submitted with, checked, to submit it again; nothing if it is no longer kept."""
        sealed, data = cast("list[bytes | None]", await self._call("HMGET", keys.JOB + job_id, keys.ENVELOPE, "data"))
        return None if sealed is None or data is None else unseal(self._key, job_id, sealed, data)

    async def remove(self, job_id: str) -> bool:
        """It is no longer listed; the job's record goes when its time is over. False if it was not listed."""
        return await self._call("ZREM", keys.DEAD_LETTERS, job_id) == 1

    def redrive_id(self, job_id: str) -> str:
        """The id of the job that takes a letter up: the same however often that is tried, and nobody can guess it."""
        digest = hmac.digest(self._key, b"redrive\0" + job_id.encode(), hashlib.sha256)
        return str(uuid.UUID(bytes=digest[:16], version=4))


def _read_cursor(cursor: str) -> tuple[str, str]:
    if not cursor:
        return "+inf", ""
    newest, dash, after = cursor.partition("-")
    if not (newest.isascii() and newest.isdigit() and dash and after):
        raise CallerError(f"cursor={cursor[:80]!r} is not one that a page before returned as next")
    return newest, after
