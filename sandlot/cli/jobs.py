"""`sandlot invoke`, `sandlot batch`, `sandlot jobs`, `sandlot job` and `sandlot logs`.

Knows: what is asked of the API for them, and which exit code an ended job has. Does not know: queues, workers.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import typer

from sandlot.cli.access import open_client
from sandlot.cli.output import FUNCTION_FAILED, note, print_failure, print_job, print_jobs, print_json, print_value
from sandlot.client import Client, InvokeResult
from sandlot.models import JobStatus


def call(
    name: str, event: bytes, wait_s: float | None, version: str | None, logs: bool, url: str | None, as_json: bool
) -> None:
    with open_client(url) as client:
        result = client.invoke(name, event, version=version, wait_s=wait_s)
        printed = client.logs(result.job_id) if logs and result.job_id else ""
    if as_json:
        print_json(_document(result, printed if logs else None))
    else:
        _show(result, printed)
    if not result.ok:
        raise typer.Exit(FUNCTION_FAILED)


def queue(name: str, event: bytes, version: str | None, callback: str | None, url: str | None, as_json: bool) -> None:
    with open_client(url) as client:
        job = client.submit(name, event, version=version, callback_url=callback)
    if as_json:
        print_json(job)
    else:
        print(job["id"])
        note(f"queued; follow it with: sandlot job {job['id']} --wait")


def queue_batch(name: str, events: bytes, version: str | None, url: str | None, as_json: bool) -> None:
    with open_client(url) as client:
        jobs = client.invoke_batch(name, events, version=version)
    if as_json:
        print_json({"jobs": jobs})
    else:
        print("\n".join(jobs))
        note(f"{len(jobs)} jobs queued; look at them with: sandlot jobs --function {name}")


def list_all(function: str | None, status: JobStatus | None, limit: int, url: str | None, as_json: bool) -> None:
    jobs: list[dict[str, Any]] = []
    cursor: str | None = ""
    with open_client(url) as client:
        while cursor is not None and len(jobs) < limit:
            page = client.jobs(function=function, status=status, limit=limit - len(jobs), cursor=cursor)
            jobs += page["jobs"]
            cursor = page["next"]
    if as_json:
        print_json(jobs)
    else:
        print_jobs(jobs)


def show(job_id: str, *, wait: bool, result: bool, cancel: bool, retry: bool, url: str | None, as_json: bool) -> None:
    with open_client(url) as client:
        if cancel:
            client.cancel(job_id)
        if retry:
            job_id = client.retry(job_id)["id"]
        job = client.wait(job_id) if wait else client.job(job_id)
        if result:
            _print_result(client, job_id)
            return
    if as_json:
        print_json(job)
    else:
        print_job(job)
    status = JobStatus(job["status"])
    if status.final and status is not JobStatus.SUCCEEDED and not cancel:
        raise typer.Exit(FUNCTION_FAILED)


def print_logs(job_id: str, url: str | None) -> None:
    with open_client(url) as client:
        sys.stdout.write(client.logs(job_id))


def follow_logs(job_id: str, url: str | None) -> None:
    """Until the job is over; ends with status 1 if it failed."""
    with open_client(url) as client:
        for name, document in client.follow(job_id):
            if name == "log":
                sys.stdout.write(document["text"])
                sys.stdout.flush()
            elif name == "result":
                note(f"{document['status']} · job {job_id}")
                if JobStatus(document["status"]) is not JobStatus.SUCCEEDED:
                    raise typer.Exit(FUNCTION_FAILED)


def _print_result(client: Client, job_id: str) -> None:
    value = client.result(job_id)
    if value is None:
        note(f"it has not ended yet; wait for it with: sandlot job {job_id} --wait --result")
        raise typer.Exit(3)
    print_value(value)


def _show(result: InvokeResult, printed: str) -> None:
    if printed:
        sys.stderr.write(printed if printed.endswith("\n") else printed + "\n")
    if result.ok:
        print_value(result.value)
    else:
        print_failure(result.problem)
    total = result.timings.get("total")
    took = f" in {total:.1f} ms" if total is not None else ""
    note(f"{result.outcome}{took} · version {result.version} · job {result.job_id}")


def _document(result: InvokeResult, logs: str | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "outcome": result.outcome,
        "job_id": result.job_id,
        "version": result.version,
        "timings": dict(result.timings),
    }
    if result.ok:
        document["value"] = msgspec.Raw(result.value)
    else:
        document["problem"] = dict(result.problem)
    return document if logs is None else document | {"logs": logs}
