"""When a queued job may be over: how many stand before it, and how fast places of its queue have come free of late.

Knows: what queue_eta.lua is asked and answers. Does not know: how it reckons (place_ms in prelude.lua, which submit.lua tells refused callers by).
Asked only by who looks at a queued job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from heapq import nlargest
from typing import Final, cast

import msgspec

from sandlot.errors import UnsafeRecord
from sandlot.jobs.callbacks import CallbackState
from sandlot.jobs.envelope import open_envelope
from sandlot.jobs.large_results import StoredResult
from sandlot.jobs.settlement import OutcomeRecord, read_outcome_record, stored_result_from
from sandlot.models import Evidence, FunctionError, JobStatus, OutcomeKind, Timings, status_of
from sandlot.redis import keys
from sandlot.redis.lua import Script, script
from sandlot.redis.pipeline import Reply

POSITION_LIMIT: Final = 10_000
"""Behind this many others, a job's position is not counted."""


async def queue_eta(run: Callable[..., Awaitable[Reply]], queue: str, job_id: str) -> tuple[int | None, float | None]:
    """How many of its queue are before it, and in how many seconds it may be over; nothing for what nobody knows.

    Raises:
        QueueUnavailable
    """
    pace: Script = script("queue_eta")
    position, over_ms = cast("list[int]", await run(pace, queue, job_id, POSITION_LIMIT))
    return (position if position >= 0 else None, round(over_ms / 1000, 1) if over_ms >= 0 else None)


JOB_FIELDS: Final = (
    "status", "created_at", keys.ENVELOPE, keys.ATTEMPT, keys.STARTED_MS, keys.ENDED_MS, keys.KIND, keys.END, keys.FAILURE, keys.ORDER, "origin",
)  # fmt: skip

LOGS_TAIL_BYTES: Final = 4096
"""What a job's description shows of its logs; all of them are at `Queue.logs`."""

_RUNNING: Final = {
    b"queued": JobStatus.QUEUED,
    b"started": JobStatus.RUNNING,
    b"scheduled": JobStatus.SCHEDULED,
}


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job as its owner may see it. Times are milliseconds since the epoch, on Redis's clock."""

    id: str
    function: str
    version: int
    digest: str
    status: JobStatus
    attempt: int
    created_ms: int
    started_ms: int | None = None
    ended_ms: int | None = None
    kind: OutcomeKind | None = None
    failure: OutcomeRecord | None = None
    """How the last attempt ended that was followed by another."""
    error: FunctionError | None = None
    evidence: Evidence | None = None
    timings: Timings = Timings()
    receipt: bytes = b"{}"
    logs_tail: str = ""
    owner: str = ""
    queue_position: int | None = None
    eta_s: float | None = None
    result_bytes: int = 0
    result_sha256: str = ""
    stored: StoredResult | None = None
    """Where a large result is; any other is in RQ's stream."""
    callback: CallbackState | None = None
    """Only where one job is asked for, and somebody is to be told of its end."""


def record_from(key: bytes, job_id: str, fields: list[bytes | None], logs_tail: bytes = b"") -> JobRecord | None:
    """The record of what HMGET of `JOB_FIELDS` returned; nothing for a job that is not there, or is none of ours.

    Raises:
        UnsafeRecord: it was tampered with.
    """
    status, created_at, sealed, attempt, started_ms, ended_ms, kind, end_text, failure_text, _, _ = fields
    if status is None or sealed is None or created_at is None:
        return None
    envelope = open_envelope(sealed)
    end = read_outcome_record(key, job_id, end_text) if kind and end_text else None
    return JobRecord(
        id=job_id,
        function=envelope.function,
        version=envelope.version,
        digest=envelope.digest,
        status=status_of(end.kind) if end else _RUNNING.get(status, JobStatus.FAILED),
        attempt=int(attempt or 0),
        created_ms=_milliseconds(created_at),
        started_ms=int(started_ms) if started_ms else None,
        ended_ms=int(ended_ms) if ended_ms else None,
        kind=end.kind if end else None,
        failure=read_outcome_record(key, job_id, failure_text) if failure_text else None,
        error=end.error if end else None,
        evidence=end.evidence if end else None,
        timings=end.timings if end else Timings(),
        receipt=bytes(end.receipt) if end else b"{}",
        logs_tail=logs_tail.decode("utf-8", "replace"),
        owner=envelope.owner,
        result_bytes=end.result_bytes if end else 0,
        result_sha256=end.result_sha256 if end else "",
        stored=stored_result_from(job_id, end) if end else None,
    )


def _milliseconds(stamp: bytes) -> int:
    """RQ's text of a moment, split_chunks to milliseconds as the scripts split_chunks them: rounded, a job would seem to start before it was made."""
    moment = datetime.fromisoformat(stamp.decode())
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


def known_status(status: bytes, kind: bytes) -> JobStatus:
    """The status of a job from RQ's status and our outcome kind, both as the scripts return them."""
    return status_of(OutcomeKind(kind.decode())) if kind else _RUNNING.get(status, JobStatus.FAILED)


LOOK_LIMIT: Final = 2000
"""Jobs looked at for one page: a page may be short, or empty, and still have a next one."""
TOGETHER: Final = 200
"""Jobs read in one round trip."""

Call = Callable[..., Awaitable[Reply]]


class JobPage(msgspec.Struct, frozen=True):
    """`next`: the cursor of the following page, empty after the last."""

    jobs: tuple[JobRecord, ...]
    next: str


async def read_job_page(
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
    replies = await asyncio.gather(*(call("HMGET", keys.JOB + job_id, *JOB_FIELDS) for job_id in ids))
    return [
        _record(key, job_id, cast("list[bytes | None]", fields)) for job_id, fields in zip(ids, replies, strict=True)
    ]


def _record(key: bytes, job_id: str, fields: list[bytes | None]) -> JobRecord | None:
    try:
        return record_from(key, job_id, fields)
    except UnsafeRecord:
        return None  # asked for by itself, it says what is wrong; it must not hide the others
