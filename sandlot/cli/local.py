"""`sandlot run`: one call of a function on disk, in a process of the worker's own code, with no server.

Knows: how that process is asked and what it answers. Does not know: sandboxes, how a call ends.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import typer

from sandlot.cli import installation
from sandlot.cli.output import FUNCTION_FAILED, note, print_failure, print_json, print_value
from sandlot.errors import OperatorError, SandlotError, by_code


class _Document(msgspec.Struct):
    """What `worker.run_once` answers, as far as it is looked at here."""

    outcome: str = ""
    timings: dict[str, float] = {}
    logs: str = ""
    detail: str = ""
    code: str = ""
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: dict[str, Any] | None = None


def run_once(path: Path, event: bytes, as_json: bool) -> None:
    """Run it, show how it went, and end with status 1 if that was not well.

    Raises:
        SandlotError: it was not run; the error that says why.
    """
    answer = subprocess.run(
        [*installation.command("worker.run_once"), str(path)],
        env=installation.environment({}),
        input=event,
        stdout=subprocess.PIPE,
        check=False,
    )
    if answer.returncode:
        raise OperatorError(f"the run ended with status {answer.returncode}; what it said is above")
    document = msgspec.json.decode(answer.stdout, type=_Document)
    if document.code:
        raise by_code().get(document.code, SandlotError)(document.detail)
    if as_json:
        print_json(msgspec.Raw(answer.stdout))
    else:
        _show(document)
    if document.outcome != "ok":
        raise typer.Exit(FUNCTION_FAILED)


def _show(document: _Document) -> None:
    """As `sandlot invoke --logs` does."""
    sys.stderr.write(document.logs if document.logs.endswith("\n") or not document.logs else document.logs + "\n")
    if isinstance(document.value, msgspec.Raw):
        print_value(bytes(document.value))
    else:
        print_failure({"error": document.error, "detail": document.detail})
    stages = ", ".join(f"{name} {document.timings[name]:.1f}" for name in ("boot", "import", "run"))
    note(f"{document.outcome} in {document.timings['total']:.1f} ms ({stages}) · this machine, no server")
