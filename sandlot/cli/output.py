"""How the commands show what they have: for people, or as JSON.

Knows: tables, colours, exit codes. Does not know: where what it shows comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.json import JSON
from rich.markup import escape
from rich.table import Table

from sandlot.errors import ApiUnreachable, CallerError, OperatorError, SandlotError, TryAgain

FUNCTION_FAILED: Final = 1
_EXIT_CODES: Final = ((CallerError, 2), (TryAgain, 3), (ApiUnreachable, 3), (OperatorError, 4))
_STATUS_STYLE: Final = {"succeeded": "green", "queued": "cyan", "running": "cyan", "scheduled": "cyan"}


def exit_code(error: SandlotError) -> int:
    """2: the request is wrong; 3: not now, try again; 4: the installation is wrong; 1: the function failed, or a bug of ours."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """One JSON document on stdout, for programs."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_value(text: bytes) -> None:
    """A function's answer: coloured on a terminal, the very text it is in a pipe."""
    console = Console()
    if console.is_terminal:
        console.print(JSON(text.decode()))
    else:
        print(text.decode())


def note(line: str) -> None:
    """Something beside the answer, on stderr, so that the answer can be piped on."""
    Console(stderr=True).print(f"[dim]{escape(line)}[/]", highlight=False, soft_wrap=True)


def print_error(message: str) -> None:
    Console(stderr=True).print(f"[bold red]error[/] {escape(message)}", highlight=False, soft_wrap=True)


def print_failure(problem: Mapping[str, Any]) -> None:
    """What a function raised, or which limit ended it, on stderr."""
    console = Console(stderr=True)
    error = problem.get("error")
    if not isinstance(error, Mapping):
        print_error(str(problem.get("detail") or problem.get("status") or "the function failed"))
        return
    console.print(
        f"[bold red]{escape(str(error.get('errorType')))}[/]: {escape(str(error.get('errorMessage')))}",
        highlight=False,
        soft_wrap=True,
    )
    for line in error.get("stackTrace") or []:
        console.print(escape(str(line).rstrip()), style="dim", highlight=False, soft_wrap=True)


def print_functions(functions: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("NAME", "VERSION", "RUNTIME", "TIMEOUT", "MEMORY", "VISIBILITY"):
        table.add_column(heading)
    for function in functions:
        manifest = function.get("manifest", {})
        words = [manifest.get(key, "") for key in ("runtime", "timeout", "memory", "visibility")]
        state = function.get("state", "active")
        version = f"{function['version']}" if state == "active" else f"{function['version']} ({state})"
        table.add_row(str(function["name"]), version, *(str(word) for word in words))
    Console().print(table)


def print_letters(letters: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("ID", "FUNCTION", "OUTCOME", "ATTEMPT", "ENDED", "ERROR"):
        table.add_column(heading, no_wrap=heading == "ID")
    for letter in letters:
        error = letter.get("error") or {}
        said = f"{error.get('errorType')}: {error.get('errorMessage')}" if error else ""
        words = [letter[key] for key in ("id", "function", "outcome", "attempt", "ended_at")]
        table.add_row(*(escape(str(word)) for word in words), escape(said))
    Console().print(table)


def print_jobs(jobs: Sequence[Mapping[str, Any]]) -> None:
    """One line a job, the newest first; nothing but a word on stderr if there are none."""
    if not jobs:
        note("no jobs")
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("ID", "FUNCTION", "VERSION", "STATUS", "CREATED", "RAN"):
        table.add_column(heading, no_wrap=True)
    for job in jobs:
        status = str(job["status"])
        style = _STATUS_STYLE.get(status, "red")
        ran_ms = (job.get("timings") or {}).get("run") or 0
        table.add_row(
            str(job["id"]),
            str(job["function"]),
            str(job["version"]),
            f"[{style}]{escape(status)}[/]",
            str(job.get("created_at") or ""),
            f"{ran_ms:.1f} ms" if ran_ms else "",
        )
    Console().print(table, highlight=False)


def print_job(job: Mapping[str, Any]) -> None:
    """A job as a short list of facts, then its result or its error."""
    console = Console()
    table = Table.grid(padding=(0, 2))
    for key in (
        "id",
        "function",
        "version",
        "status",
        "outcome",
        "attempt",
        "created_at",
        "started_at",
        "ended_at",
        "queue_position",
        "eta_s",
    ):
        if job.get(key) is not None:
            style = _STATUS_STYLE.get(str(job[key]), "red") if key == "status" else ""
            table.add_row(f"[dim]{key}[/]", f"[{style}]{escape(str(job[key]))}[/]" if style else escape(str(job[key])))
    timings = {name: value for name, value in (job.get("timings") or {}).items() if value}
    if timings:
        table.add_row("[dim]timings[/]", "  ".join(f"{name} {value:.1f} ms" for name, value in timings.items()))
    console.print(table, highlight=False)
    if job.get("error") or job.get("status") in ("failed", "killed", "timed_out"):
        print_failure(job)
    elif "result" in job:
        print_value(msgspec.json.encode(job["result"]))
