"""Jobs, newest first: page by page, whatever they are doing.

Knows: the index of each queue, cursors. Does not know: who may see which job.
Ids begin with the moment they were made, so the newest of all queues are found by their ids alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from heapq import nlargest
from typing import Final, cast

import msgspec

from sandlot.errors import UnsafeRecord
from sandlot.jobs import keys
from sandlot.jobs.record import FIELDS, JobRecord, record_from
from sandlot.jobs.wire import Reply

LOOK_LIMIT: Final = 2000
"""Jobs looked at for one page: a page may be short, or empty, and still have a next one."""
TOGETHER: Final = 200
"""Jobs read in one round trip."""

Call = Callable[..., Awaitable[Reply]]


class JobPage(msgspec.Struct, frozen=True):
    """`next`: the cursor of the following page, empty after the last."""

    jobs: tuple[JobRecord, ...]
    next: str


async def list_jobs(
    call: Call, key: bytes, wanted: Callable[[JobRecord], bool], *, function: str, limit: int, cursor: str
) -> JobPage:
    """Up to `limit` jobs made before the one with the id `cursor` (empty: from the newest on).

    Raises:
        QueueUnavailable
    """
    queues = await _queues(call, function)
    found: list[JobRecord] = []
    looked = 0
    while looked < LOOK_LIMIT:
        ids = await _newest(call, queues, cursor, TOGETHER)
        for job_id, record in zip(ids, await _records(call, key, ids), strict=True):
            cursor = job_id
            looked += 1
            if record is not None and wanted(record):
                found.append(record)
                if len(found) == limit:
                    return JobPage(tuple(found), cursor)
        if len(ids) < TOGETHER:
            return JobPage(tuple(found), "")
    return JobPage(tuple(found), cursor)


async def _queues(call: Call, function: str) -> list[str]:
    """Of one function there is a queue for each placement it ever had."""
    names = cast("set[bytes] | list[bytes]", await call("SMEMBERS", keys.QUEUES))
    queues = [name.decode().removeprefix(keys.QUEUE) for name in names]
    return [queue for queue in queues if not function or queue.rpartition("@")[0] == function]


async def _newest(call: Call, queues: list[str], before: str, count: int) -> list[str]:
    highest = f"({before}" if before else "+"
    looks = (call("ZREVRANGEBYLEX", keys.INDEX + queue, highest, "-", "LIMIT", 0, count) for queue in queues)
    pages = cast("list[list[bytes]]", await asyncio.gather(*looks))
    ids = [job_id.decode() for page in pages for job_id in page]
    return nlargest(count, ids)


async def _records(call: Call, key: bytes, ids: list[str]) -> list[JobRecord | None]:
    """One for each id; nothing for a job that has expired meanwhile, or was tampered with."""
    replies = await asyncio.gather(*(call("HMGET", keys.JOB + job_id, *FIELDS) for job_id in ids))
    return [
        _record(key, job_id, cast("list[bytes | None]", fields)) for job_id, fields in zip(ids, replies, strict=True)
    ]


def _record(key: bytes, job_id: str, fields: list[bytes | None]) -> JobRecord | None:
    try:
        return record_from(key, job_id, fields)
    except UnsafeRecord:
        return None  # asked for by itself, it says what is wrong; it must not hide the others
