"""What is known of one job, read from its hash.

Knows: which fields to ask for and what they mean. Does not know: who may see them.
RQ's `Job.fetch` is never used: it would inflate, import and unpickle what it finds (see docs/decisions). This reads named fields only.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from sandlot.jobs import keys
from sandlot.jobs.callbacks import CallbackState
from sandlot.jobs.envelope import open_envelope
from sandlot.jobs.results import Stored
from sandlot.jobs.settlement import End, read_end, stored_from
from sandlot.models import Evidence, FunctionError, JobStatus, OutcomeKind, Timings, status_of

FIELDS: Final = (
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
    failure: End | None = None
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
    stored: Stored | None = None
    """Where a large result is; any other is in RQ's stream."""
    callback: CallbackState | None = None
    """Only where one job is asked for, and somebody is to be told of its end."""


def record_from(key: bytes, job_id: str, fields: list[bytes | None], logs_tail: bytes = b"") -> JobRecord | None:
    """The record of what HMGET of `FIELDS` returned; nothing for a job that is not there, or is none of ours.

    Raises:
        UnsafeRecord: it was tampered with.
    """
    status, created_at, sealed, attempt, started_ms, ended_ms, kind, end_text, failure_text, _, _ = fields
    if status is None or sealed is None or created_at is None:
        return None
    envelope = open_envelope(sealed)
    end = read_end(key, job_id, end_text) if kind and end_text else None
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
        failure=read_end(key, job_id, failure_text) if failure_text else None,
        error=end.error if end else None,
        evidence=end.evidence if end else None,
        timings=end.timings if end else Timings(),
        receipt=bytes(end.receipt) if end else b"{}",
        logs_tail=logs_tail.decode("utf-8", "replace"),
        owner=envelope.owner,
        result_bytes=end.result_bytes if end else 0,
        result_sha256=end.result_sha256 if end else "",
        stored=stored_from(job_id, end) if end else None,
    )


def _milliseconds(stamp: bytes) -> int:
    """RQ's text of a moment, cut to milliseconds as the scripts cut them: rounded, a job would seem to start before it was made."""
    moment = datetime.fromisoformat(stamp.decode())
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


def known_status(status: bytes, kind: bytes) -> JobStatus:
    """The status of a job from RQ's status and our outcome kind, both as the scripts return them."""
    return status_of(OutcomeKind(kind.decode())) if kind else _RUNNING.get(status, JobStatus.FAILED)
