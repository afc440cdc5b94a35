"""Reading jobs back: one record, pages of records, and the position and ETA of a queued job."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import lru_cache
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
from sandlot.redis.lua import script
from sandlot.redis.pipeline import Reply

JOB_FIELDS: Final = (
    "status", "created_at", keys.ENVELOPE, keys.ATTEMPT, keys.STARTED_MS, keys.ENDED_MS, keys.KIND,
    keys.END, keys.FAILURE, keys.CALLBACK_REQUEST, "origin",
)  # fmt: skip
"""The fields of a job's hash that `record_from` reads, in its order."""
LOGS_TAIL_BYTES: Final = 4096
"""The end of the logs that a job's document shows. `Queue.logs` returns all of them."""
POSITION_LIMIT: Final = 10_000
"""Behind this many others, a job's position is not looked up."""
SCAN_LIMIT: Final = 2000
"""Jobs examined for one page: a page may be short or empty and still have a following one."""
READ_TOGETHER: Final = 200
"""Jobs read in one round trip."""

_LIVE_STATUS: Final = {
    b"queued": JobStatus.QUEUED,
    b"started": JobStatus.RUNNING,
    b"scheduled": JobStatus.SCHEDULED,
}

Call = Callable[..., Awaitable[Reply]]


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job as its owner may see it. Times are milliseconds since the epoch on Redis's clock."""

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
    """The outcome of the last attempt that was followed by another."""
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
    """The location of a large result; every other result is in RQ's stream."""
    callback: CallbackState | None = None
    """Set by `Queue.job` for a job that was submitted with a callback."""


class JobPage(msgspec.Struct, frozen=True):
    """One page of jobs. `next` is the cursor of the following page, empty after the last."""

    jobs: tuple[JobRecord, ...]
    next: str


def record_from(key: bytes, job_id: str, fields: list[bytes | None], logs_tail: bytes = b"") -> JobRecord | None:
    """Build the record from the reply to HMGET of `JOB_FIELDS`; `None` for a job that does not
    exist or is not Sandlot's.

    Raises:
        UnsafeRecord: the record was tampered with.
    """
    status, created_at, sealed, attempt, started_ms, ended_ms, kind, outcome_text, failure_text, _, _ = fields
    if status is None or sealed is None or created_at is None:
        return None
    envelope = open_envelope(sealed)
    outcome = read_outcome_record(key, job_id, outcome_text) if kind and outcome_text else None
    return JobRecord(
        id=job_id,
        function=envelope.function,
        version=envelope.version,
        digest=envelope.digest,
        status=status_of(outcome.kind) if outcome else _LIVE_STATUS.get(status, JobStatus.FAILED),
        attempt=int(attempt or 0),
        created_ms=_milliseconds(created_at),
        started_ms=int(started_ms) if started_ms else None,
        ended_ms=int(ended_ms) if ended_ms else None,
        kind=outcome.kind if outcome else None,
        failure=read_outcome_record(key, job_id, failure_text) if failure_text else None,
        error=outcome.error if outcome else None,
        evidence=outcome.evidence if outcome else None,
        timings=outcome.timings if outcome else Timings(),
        receipt=bytes(outcome.receipt) if outcome else b"{}",
        logs_tail=logs_tail.decode("utf-8", "replace"),
        owner=envelope.owner,
        result_bytes=outcome.result_bytes if outcome else 0,
        result_sha256=outcome.result_sha256 if outcome else "",
        stored=stored_result_from(job_id, outcome) if outcome else None,
    )


def _milliseconds(stamp: bytes) -> int:
    """Read RQ's timestamp, truncated to milliseconds as the scripts do: with rounding, a job could
    appear to start before it was created."""
    moment = datetime.fromisoformat(stamp.decode())
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


@lru_cache(maxsize=64)
def job_status(status: bytes, kind: bytes) -> JobStatus:
    """Return the status of a job from RQ's status and the outcome kind, both as the scripts return
    them. There are few of each, and every submit asks."""
    return status_of(OutcomeKind(kind.decode())) if kind else _LIVE_STATUS.get(status, JobStatus.FAILED)


async def queue_eta(run: Callable[..., Awaitable[Reply]], queue: str, job_id: str) -> tuple[int | None, float | None]:
    """Return how many jobs are ahead of this one and the seconds until it may have ended; `None`
    for each that is unknown.

    `place_ms` in `prelude.lua` makes the estimate, also for the Retry-After of `submit.lua`.

    Raises:
        QueueUnavailable
    """
    position, over_ms = cast("list[int]", await run(script("queue_eta"), queue, job_id, POSITION_LIMIT))
    return (position if position >= 0 else None, round(over_ms / 1000, 1) if over_ms >= 0 else None)


async def read_job_page(
    call: Call, key: bytes, wanted: Callable[[JobRecord], bool], *, function: str, limit: int, cursor: str
) -> JobPage:
    """Return up to `limit` jobs that `wanted` accepts, created before the job whose id is `cursor`
    (empty: from the newest on).

    Raises:
        QueueUnavailable
    """
    queues = await _queues_of(call, function)
    found: list[JobRecord] = []
    examined = 0
    while examined < SCAN_LIMIT:
        ids = await _newest_ids(call, queues, cursor, READ_TOGETHER)
        for job_id, record in zip(ids, await _read_records(call, key, ids), strict=True):
            cursor = job_id
            examined += 1
            if record is not None and wanted(record):
                found.append(record)
                if len(found) == limit:
                    return JobPage(tuple(found), cursor)
        if len(ids) < READ_TOGETHER:
            return JobPage(tuple(found), "")
    return JobPage(tuple(found), cursor)


async def _queues_of(call: Call, function: str) -> list[str]:
    """Return the queues of a function (empty: of all): one for each placement it ever had."""
    names = cast("set[bytes] | list[bytes]", await call("SMEMBERS", keys.QUEUES))
    queues = [name.decode().removeprefix(keys.QUEUE) for name in names]
    return [queue for queue in queues if not function or queue.rpartition("@")[0] == function]


async def _newest_ids(call: Call, queues: list[str], before: str, count: int) -> list[str]:
    highest = f"({before}" if before else "+"
    calls = (call("ZREVRANGEBYLEX", keys.INDEX + queue, highest, "-", "LIMIT", 0, count) for queue in queues)
    pages = cast("list[list[bytes]]", await asyncio.gather(*calls))
    ids = [job_id.decode() for page in pages for job_id in page]
    return nlargest(count, ids)


async def _read_records(call: Call, key: bytes, ids: list[str]) -> list[JobRecord | None]:
    """Return one record per id; `None` for a job that has expired or was tampered with."""
    replies = await asyncio.gather(*(call("HMGET", keys.JOB + job_id, *JOB_FIELDS) for job_id in ids))
    return [
        _record_or_none(key, job_id, cast("list[bytes | None]", fields))
        for job_id, fields in zip(ids, replies, strict=True)
    ]


def _record_or_none(key: bytes, job_id: str, fields: list[bytes | None]) -> JobRecord | None:
    try:
        return record_from(key, job_id, fields)
    except UnsafeRecord:
        return None  # One bad record must not hide the others; read by itself, it raises the error.
