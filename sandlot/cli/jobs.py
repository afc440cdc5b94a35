"""`sandlot invoke`, `batch`, `jobs`, `job`, `logs` and `dead-letters`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from sandlot.cli.options import AsJson, Event, EventSource, Url, open_client
from sandlot.cli.output import (
    FUNCTION_FAILED,
    NOT_NOW,
    note,
    print_dead_letters,
    print_failure,
    print_job,
    print_jobs,
    print_json,
    print_value,
)
from sandlot.errors import InvalidJson, JobNotFound
from sandlot.models import JobStatus

if TYPE_CHECKING:
    from sandlot.client import Client, InvokeResult

_Version = Annotated[str | None, typer.Option(help="A version's number, or an alias (default: the latest version).")]


def invoke(
    name: Annotated[str, typer.Argument(help="The function.")],
    event: Event = None,
    source: EventSource = None,
    respond_async: Annotated[bool, typer.Option("--async", help="Queue the call and print the job's id.")] = False,
    wait: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Give up waiting after this time; the job continues."),
    ] = None,
    version: _Version = None,
    callback: Annotated[
        str | None,
        typer.Option(metavar="URL", help="With --async: send a signed POST to this URL when the job ends."),
    ] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Also show what the function printed.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Call a function. Its result goes to stdout, everything else to stderr.

    [bold]Examples:[/]
      sandlot invoke hello
      sandlot invoke markdown '{"markdown": "# Hi"}' | jq -r .html
      sandlot invoke csv-report --event table.json --logs
      sandlot invoke slow --async
    """
    text = read_event(event, source)
    if respond_async:
        _submit(name, text, version, callback, url, as_json)
    elif callback is not None:
        raise typer.BadParameter("needs --async: a call that is waited for has no callback", param_hint="--callback")
    else:
        _invoke_and_wait(name, text, wait, version, logs, url, as_json)


def batch(
    name: Annotated[str, typer.Argument(help="The function.")],
    events: Annotated[
        str,
        typer.Argument(help="An array of 1 to 1,000 events: JSON, @FILE to read it from a file, or - for stdin."),
    ],
    version: _Version = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Queue one call per event of an array, all or none, and print the ids of the jobs.

    [bold]Example:[/] sandlot batch resize @pictures.json
    """
    text = read_event(events, None)
    with open_client(url) as client:
        ids = client.invoke_batch(name, text, version=version)
    if as_json:
        print_json({"jobs": ids})
    else:
        print("\n".join(ids))
        note(f"{len(ids)} jobs queued; list them with: sandlot jobs --function {name}")


def jobs(
    function: Annotated[str | None, typer.Option(metavar="NAME", help="Show only jobs of this function.")] = None,
    status: Annotated[JobStatus | None, typer.Option(help="Show only jobs with this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show at most this many jobs.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List your jobs that are still kept, newest first.

    [bold]Example:[/] sandlot jobs --function hello --status failed
    """
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    with open_client(url) as client:
        while cursor is not None and len(found) < limit:
            page = client.jobs(function=function, status=status, limit=limit - len(found), cursor=cursor)
            found += page["jobs"]
            cursor = page["next"]
    if as_json:
        print_json(found)
    else:
        print_jobs(found)


def job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")] = False,
    result: Annotated[bool, typer.Option("--result", help="Print only what the function returned.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the job.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run it again, as a new job with the same event.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show a job, wait for it, cancel it, run it again, or print its result.

    Exits with status 1 if the job has ended without success.

    [bold]Example:[/] sandlot job $(sandlot invoke hello --async) --wait
    """
    with open_client(url) as client:
        if cancel:
            client.cancel(job_id)
        if retry:
            job_id = client.retry(job_id)["id"]
        document = client.wait(job_id) if wait else client.job(job_id)
        if result:
            _print_result(client, job_id)
            return
    if as_json:
        print_json(document)
    else:
        print_job(document)
    status = JobStatus(document["status"])
    if status.final and status is not JobStatus.SUCCEEDED and not cancel:
        raise typer.Exit(FUNCTION_FAILED)


def logs(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the job has ended.")] = False,
    url: Url = None,
) -> None:
    """Print what a job's function wrote to stdout and stderr.

    [bold]Example:[/] sandlot logs $(sandlot invoke slow --async) --follow
    """
    with open_client(url) as client:
        if follow:
            _follow_logs(client, job_id)
        else:
            sys.stdout.write(client.logs(job_id))


def dead_letters(
    job_id: Annotated[str | None, typer.Argument(metavar="ID", help="Show this one, with its event.")] = None,
    function: Annotated[
        str, typer.Option("--function", "-f", metavar="NAME", help="Only dead letters of this function.")
    ] = "",
    redrive: Annotated[
        bool, typer.Option("--redrive", help="Run it again, as a new job that replaces the dead letter.")
    ] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Delete it.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Redrive or purge all dead letters.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List, inspect, redrive or purge jobs that failed after their last attempt.

    [bold]Example:[/] sandlot dead-letters --function hello --redrive
    """
    if redrive and purge:
        raise typer.BadParameter("--redrive and --purge exclude each other")
    if job_id and (function or every):
        raise typer.BadParameter("an ID selects one dead letter; --function and --all select many")
    if (redrive or purge) and not (job_id or function or every):
        raise typer.BadParameter("say which dead letters: an ID, --function NAME, or --all")
    with open_client(url) as client:
        if not (redrive or purge):
            _show_dead_letters(client, job_id, function, as_json)
            return
        chosen = [job_id] if job_id else [str(found["id"]) for found in client.dead_letters(function)]
        done = _redrive_or_purge(client, chosen, redrive=redrive)
    if as_json:
        print_json(done)
        return
    if not done:
        note("there are no dead letters")
    for each in done:
        print(f"{each['id']} redriven as {each['job']}" if redrive else f"{each['id']} purged")


def read_event(argument: str | None, source: str | None) -> bytes:
    """Return the event's JSON text; `null` if no event is given.

    Args:
        argument: JSON, `@FILE`, or `-` for stdin.
        source: the value of `--event`: a file, or `-` for stdin.

    Raises:
        InvalidJson: the file cannot be read, or the text is not JSON.
        typer.BadParameter: both are given.
    """
    if argument is not None and source is not None:
        raise typer.BadParameter("the event is given twice: as an argument, and with --event")
    if argument is not None:
        source = argument.removeprefix("@") if argument.startswith("@") or argument == "-" else None
    try:
        content = (argument or "null").encode() if source is None else _read_source(source)
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidJson(f'the event is not JSON: {error}. In a shell, quote it: \'{{"name": "Ada"}}\'') from error
    return content


def _read_source(source: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InvalidJson(f"cannot read the event from {source}: {error.strerror}") from error


def _submit(name: str, event: bytes, version: str | None, callback: str | None, url: str | None, as_json: bool) -> None:
    with open_client(url) as client:
        document = client.submit(name, event, version=version, callback_url=callback)
    if as_json:
        print_json(document)
    else:
        print(document["id"])
        note(f"queued; wait for it with: sandlot job {document['id']} --wait")


def _invoke_and_wait(
    name: str, event: bytes, wait_s: float | None, version: str | None, logs: bool, url: str | None, as_json: bool
) -> None:
    with open_client(url) as client:
        result = client.invoke(name, event, version=version, wait_s=wait_s)
        output = client.logs(result.job_id) if logs and result.job_id else ""
    if as_json:
        print_json(_call_document(result, output if logs else None))
    else:
        _show_call(result, output)
    if not result.ok:
        raise typer.Exit(FUNCTION_FAILED)


def _show_call(result: InvokeResult, output: str) -> None:
    if output:
        sys.stderr.write(output if output.endswith("\n") else output + "\n")
    if result.ok:
        print_value(result.value)
    else:
        print_failure(result.problem)
    total_ms = result.timings.get("total")
    took = f" in {total_ms:.1f} ms" if total_ms is not None else ""
    note(f"{result.outcome}{took} · version {result.version} · job {result.job_id}")


def _call_document(result: InvokeResult, logs: str | None) -> dict[str, Any]:
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


def _print_result(client: Client, job_id: str) -> None:
    value = client.result(job_id)
    if value is None:
        note(f"the job has not ended yet; wait for it with: sandlot job {job_id} --wait --result")
        raise typer.Exit(NOT_NOW)
    print_value(value)


def _follow_logs(client: Client, job_id: str) -> None:
    """Print logs as they arrive until the job ends; exit with status 1 if it failed."""
    for name, document in client.follow(job_id):
        if name == "log":
            sys.stdout.write(document["text"])
            sys.stdout.flush()
        elif name == "result":
            note(f"{document['status']} · job {job_id}")
            if JobStatus(document["status"]) is not JobStatus.SUCCEEDED:
                raise typer.Exit(FUNCTION_FAILED)


def _show_dead_letters(client: Client, job_id: str | None, function: str, as_json: bool) -> None:
    if job_id:
        document = client.dead_letter(job_id)
        if as_json:
            print_json(document)
            return
        print_job(document)
        if "event" in document:
            note("event:")
            print_json(document["event"])
        return
    found = client.dead_letters(function)
    if as_json:
        print_json(found)
    elif found:
        print_dead_letters(found)
    else:
        note("there are no dead letters: every retried job has succeeded or is still being retried")


def _redrive_or_purge(client: Client, chosen: Sequence[str], *, redrive: bool) -> list[dict[str, str]]:
    done = []
    for job_id in chosen:
        try:
            if redrive:
                done.append({"id": job_id, "job": str(client.redrive(job_id)["id"])})
            else:
                client.purge(job_id)
                done.append({"id": job_id})
        except JobNotFound:
            if len(chosen) == 1:
                raise
            note(f"{job_id} is gone: it was redriven or purged meanwhile, or its week is over")
    return done
