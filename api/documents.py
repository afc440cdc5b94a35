"""The JSON documents of the API: job, version, alias."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from api.invocations import JOBS_PATH, Pending
from sandlot.functions import Alias, PendingVersion, Version
from sandlot.jobs import JobRecord, JobResult, OutcomeRecord
from sandlot.jobs.callbacks import CallbackState
from sandlot.models import Invocation, status_of

Document = dict[str, Any]


def job_document(record: JobRecord, result: bytes | None) -> Document:
    """Return a job as it was last recorded.

    Args:
        result: the JSON text that the function returned; None to leave it out.
    """
    document: Document = {
        "id": record.id,
        "function": record.function,
        "version": record.version,
        "digest": record.digest,
        "status": record.status,
        "attempt": record.attempt,
        "created_at": iso(record.created_ms),
        "started_at": iso(record.started_ms),
        "ended_at": iso(record.ended_ms),
        "outcome": record.kind,
    }
    if record.failure is not None:
        document["last_failure"] = failure_document(record.failure)
        if not record.status.final and record.failure.error is not None:
            document["error"] = record.failure.error
    if result is not None:
        document["result"] = msgspec.Raw(result)
    for name, value in (
        ("error", record.error),
        ("evidence", record.evidence),
        ("queue_position", record.queue_position),
        ("eta_s", record.eta_s),
    ):
        if value is not None:
            document[name] = value
    if record.callback is not None:
        document["callback"] = callback_document(record.callback)
    if record.logs_tail:
        document["logs_tail"] = record.logs_tail
    if record.receipt and record.status.final:
        document["sandbox"] = msgspec.Raw(record.receipt)
    return document | {"timings": record.timings, "links": _links(record.id)}


def failure_document(failure: OutcomeRecord) -> Document:
    """Return the outcome of a failed attempt that another one followed."""
    document: Document = {"attempt": failure.attempt, "outcome": failure.kind}
    for name, value in (("error", failure.error), ("evidence", failure.evidence)):
        if value is not None:
            document[name] = value
    return document


def callback_document(callback: CallbackState) -> Document:
    """Return the state of a callback's delivery, with `next_at` while another try is due."""
    document: Document = {"url": callback.url, "state": callback.state, "tries": callback.tries}
    for name, value in (
        ("last_status", callback.last_status),
        ("reason", callback.reason),
        ("next_at", iso(callback.next_ms)),
    ):
        if value:
            document[name] = value
    return document


def pending_document(invocation: Invocation, pending: Pending) -> Document:
    """Return a job that was just accepted.

    A new job has no times here: they are in its record, by Redis's clock, which was not read.
    """
    if pending.record is not None:
        return job_document(pending.record, None)
    return {
        "id": pending.job_id,
        "function": invocation.function,
        "version": invocation.version,
        "digest": invocation.digest,
        "status": pending.status,
        "attempt": 0,
        "links": _links(pending.job_id),
    }


def ended_document(ended: JobResult) -> Document:
    """Return the member `job` of a problem document that reports how a job ended."""
    return {
        "id": ended.job_id,
        "function": ended.function,
        "version": ended.version,
        "status": status_of(ended.kind),
        "attempt": ended.attempt,
        "outcome": ended.kind,
        "timings": ended.timings,
        "links": _links(ended.job_id),
    }


def version_document(version: Version) -> Document:
    """Return a version as `GET /v1/functions/{name}` shows it."""
    return {
        "name": version.function,
        "version": version.number,
        "digest": version.digest,
        "state": "active",
        "manifest": version.manifest.to_table(),
        "created_at": iso(version.created_ms),
    }


def unready_document(waiting: PendingVersion) -> Document:
    """Return a version that cannot be called yet.

    It is `pending`, with the progress of its build, or `failed`, with the resolver's reason.
    """
    document = version_document(waiting.version) | {"state": waiting.state}
    if waiting.state == "failed":
        return document | {"reason": waiting.reason}
    return document | {"progress": waiting.progress or "waiting for a worker"}


def alias_document(alias: Alias) -> Document:
    """Return the target of an alias, with `weights` only if it splits calls."""
    weights = {str(number): share for number, share in sorted(alias.weights.items())}
    return {"version": alias.version} | ({"weights": weights} if weights else {})


def iso(epoch_ms: int | None) -> str | None:
    """Return a time in RFC 3339, in UTC, with milliseconds; None for no time."""
    if not epoch_ms:
        return None
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _links(job_id: str) -> dict[str, str]:
    path = JOBS_PATH + job_id
    return {"self": path, "result": f"{path}/result", "logs": f"{path}/logs", "events": f"{path}/events"}
