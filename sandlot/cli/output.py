"""Output of the commands: tables and colours for people, JSON for programs, and exit codes.

Rich takes longer to import than most commands take to run, so only the functions that draw
import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sandlot.errors import ApiUnreachable, CallerError, OperatorError, SandlotError, TryAgain

if TYPE_CHECKING:
    from rich.table import Table

FUNCTION_FAILED: Final = 1
NOT_NOW: Final = 3
BROKEN_INSTALLATION: Final = 4
_EXIT_CODES: Final = (
    (CallerError, 2),
    (TryAgain, NOT_NOW),
    (ApiUnreachable, NOT_NOW),
    (OperatorError, BROKEN_INSTALLATION),
)
_STATUS_STYLE: Final = {"succeeded": "green", "queued": "cyan", "running": "cyan", "scheduled": "cyan"}
_JOB_FIELDS: Final = (
    "id", "function", "version", "status", "outcome", "attempt", "created_at", "started_at", "ended_at",
    "queue_position", "eta_s",
)  # fmt: skip


def exit_code(error: SandlotError) -> int:
    """Return 2 for a wrong request, 3 for "try again", 4 for a wrong installation, otherwise 1."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print one JSON document to stdout."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_value(text: bytes) -> None:
    """Print a function's result: coloured on a terminal, the exact JSON text into a pipe."""
    from rich.console import Console
    from rich.json import JSON

    console = Console()
    if console.is_terminal:
        console.print(JSON(text.decode()))
    else:
        print(text.decode())


def note(line: str) -> None:
    """Print a remark to stderr, so that it never mixes with a result that is piped on."""
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True).print(f"[dim]{escape(line)}[/]", highlight=False, soft_wrap=True)


def print_error(message: str) -> None:
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True).print(f"[bold red]error[/] {escape(message)}", highlight=False, soft_wrap=True)


def print_failure(problem: Mapping[str, Any]) -> None:
    """Print to stderr what a function raised, or which limit ended it."""
    from rich.console import Console
    from rich.markup import escape

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


def new_table(*headings: str, no_wrap: Sequence[str] = ()) -> Table:
    """Return an empty table with these column headings and no frame."""
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading in no_wrap)
    return table


def print_table(table: Table) -> None:
    from rich.console import Console

    Console().print(table)


def print_functions(functions: Sequence[Mapping[str, Any]]) -> None:
    table = new_table("NAME", "VERSION", "RUNTIME", "TIMEOUT", "MEMORY", "VISIBILITY")
    for function in functions:
        manifest = function.get("manifest", {})
        settings = [manifest.get(key, "") for key in ("runtime", "timeout", "memory", "visibility")]
        state = function.get("state", "active")
        version = f"{function['version']}" if state == "active" else f"{function['version']} ({state})"
        table.add_row(str(function["name"]), version, *(str(setting) for setting in settings))
    print_table(table)


def print_dead_letters(dead_letters: Sequence[Mapping[str, Any]]) -> None:
    from rich.markup import escape

    table = new_table("ID", "FUNCTION", "OUTCOME", "ATTEMPT", "ENDED", "ERROR", no_wrap=["ID"])
    for job in dead_letters:
        error = job.get("error") or {}
        reason = f"{error.get('errorType')}: {error.get('errorMessage')}" if error else ""
        cells = [job[key] for key in ("id", "function", "outcome", "attempt", "ended_at")]
        table.add_row(*(escape(str(cell)) for cell in cells), escape(reason))
    print_table(table)


def print_jobs(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per job in the given order; without jobs, only a note on stderr."""
    from rich.console import Console
    from rich.markup import escape

    if not jobs:
        note("no jobs")
        return
    headings = ("ID", "FUNCTION", "VERSION", "STATUS", "CREATED", "RAN")
    table = new_table(*headings, no_wrap=headings)
    for job in jobs:
        status = str(job["status"])
        style = _STATUS_STYLE.get(status, "red")
        run_ms = (job.get("timings") or {}).get("run") or 0
        table.add_row(
            str(job["id"]),
            str(job["function"]),
            str(job["version"]),
            f"[{style}]{escape(status)}[/]",
            str(job.get("created_at") or ""),
            f"{run_ms:.1f} ms" if run_ms else "",
        )
    Console().print(table, highlight=False)


def print_job(job: Mapping[str, Any]) -> None:
    """Print the fields of a job that are set, then its result or its error."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for key in _JOB_FIELDS:
        if job.get(key) is not None:
            style = _STATUS_STYLE.get(str(job[key]), "red") if key == "status" else ""
            table.add_row(f"[dim]{key}[/]", f"[{style}]{escape(str(job[key]))}[/]" if style else escape(str(job[key])))
    timings = {name: value for name, value in (job.get("timings") or {}).items() if value}
    if timings:
        table.add_row("[dim]timings[/]", "  ".join(f"{name} {value:.1f} ms" for name, value in timings.items()))
    Console().print(table, highlight=False)
    if job.get("error") or job.get("status") in ("failed", "killed", "timed_out"):
        print_failure(job)
    elif "result" in job:
        print_value(msgspec.json.encode(job["result"]))
