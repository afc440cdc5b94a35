"""Dead letters: jobs that failed after their last permitted attempt. Listing, redriving and
removing them.

`prelude.lua` decides when a job becomes one (`keep_dead_letter`).
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

SCAN_LIMIT: Final = 1500
"""Dead letters that one page examines to find those that the caller may see. More than can be
written in one millisecond: a worker has 1,024 slots."""
READ_TOGETHER: Final = 100
"""Records read in one go, so that Redis serves others in between."""

Call = Callable[..., Awaitable[Reply]]


class DeadLetterPage(msgspec.Struct, frozen=True):
    """One page of dead letters. `next` is the cursor of the following, older page, `None` at the
    end. A page may be empty and still have one."""

    letters: list[JobRecord]
    next: str | None


class DeadLetters:
    """Reads and edits the index of dead letters. Every method that talks to Redis raises
    QueueUnavailable when it does not answer, and UnsafeRecord for a record that was tampered
    with."""

    def __init__(self, call: Call, signing_key: bytes) -> None:
        """
        Args:
            call: sends one command, as `RedisPipeline.call` does.
        """
        self._call = call
        self._key = signing_key

    async def page(
        self, is_visible: Callable[[JobRecord], bool], *, limit: int = 50, cursor: str = ""
    ) -> DeadLetterPage:
        """Return up to `limit` dead letters that `is_visible` accepts, newest first.

        Raises:
            CallerError: the cursor is not one that an earlier page returned.
        """
        newest, after = _read_cursor(cursor)
        flat = cast(
            "list[bytes]",
            await self._call(
                "ZRANGE", keys.DEAD_LETTERS, newest, "-inf", "BYSCORE", "REV", "LIMIT", 0, SCAN_LIMIT, "WITHSCORES"
            ),
        )
        found = [(name.decode(), int(float(score))) for name, score in zip(flat[::2], flat[1::2], strict=True)]
        # With REV, members of equal score come in reverse lexicographical order (ZRANGE, redis.io).
        left = [(job_id, died_ms) for job_id, died_ms in found if str(died_ms) != newest or job_id < after]
        letters: list[JobRecord] = []
        for start in range(0, len(left), READ_TOGETHER):
            together = left[start : start + READ_TOGETHER]
            records = await asyncio.gather(*(self._read(job_id) for job_id, _ in together))
            for (job_id, died_ms), record in zip(together, records, strict=True):
                if record is not None and is_visible(record):
                    letters.append(record)
                if len(letters) == limit:
                    return DeadLetterPage(letters, f"{died_ms}-{job_id}")
        more = left and len(found) == SCAN_LIMIT
        return DeadLetterPage(letters, f"{left[-1][1]}-{left[-1][0]}" if more else None)

    async def get(self, job_id: str) -> JobRecord | None:
        """Return the job if it is a dead letter."""
        if await self._call("ZSCORE", keys.DEAD_LETTERS, job_id) is None:
            return None
        return await self._read(job_id)

    async def _read(self, job_id: str) -> JobRecord | None:
        fields = cast("list[bytes | None]", await self._call("HMGET", keys.JOB + job_id, *JOB_FIELDS))
        return record_from(self._key, job_id, fields)

    async def unseal(self, job_id: str) -> tuple[Envelope, bytes] | None:
        """Return the verified envelope and event for a new submit, or `None` if they are no longer
        kept."""
        sealed, data = cast("list[bytes | None]", await self._call("HMGET", keys.JOB + job_id, keys.ENVELOPE, "data"))
        return None if sealed is None or data is None else unseal(self._key, job_id, sealed, data)

    async def remove(self, job_id: str) -> bool:
        """Take the job out of the index. Return False if it was not listed.

        The job's own record expires at its usual time.
        """
        return await self._call("ZREM", keys.DEAD_LETTERS, job_id) == 1

    def redrive_id(self, job_id: str) -> str:
        """Return the id of the job that redrives a dead letter: the same for every try, and
        impossible to guess without the signing key."""
        digest = hmac.digest(self._key, b"redrive\0" + job_id.encode(), hashlib.sha256)
        return str(uuid.UUID(bytes=digest[:16], version=4))


def _read_cursor(cursor: str) -> tuple[str, str]:
    if not cursor:
        return "+inf", ""
    newest, dash, after = cursor.partition("-")
    if not (newest.isascii() and newest.isdigit() and dash and after):
        raise CallerError(f"cursor={cursor[:80]!r} is not a cursor that an earlier page returned as next")
    return newest, after
