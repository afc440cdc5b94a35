"""The `sandlot` command: every subcommand in the order of the help, and the exit codes.

Each subcommand is declared and implemented in one module. These modules are imported on every
start, so they import what is slow to import (httpx, pydantic, redis, rich, asyncio) inside their
functions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Final

import typer

from sandlot.cli import admin
from sandlot.cli.deploy import deploy
from sandlot.cli.dev import dev
from sandlot.cli.doctor import doctor
from sandlot.cli.functions import download, functions, new, rollback
from sandlot.cli.jobs import batch, dead_letters, invoke, job, jobs, logs
from sandlot.cli.run import api, run, worker
from sandlot.cli.status import status, top
from sandlot.cli.up.command import up
from sandlot.errors import SandlotError

_ABOUT: Final = """
Run functions on machines you own: isolated, durable, fast.

[bold]Start here[/]
  [cyan]sandlot up[/]                               start the queue, API and worker, and deploy functions/
  [cyan]sandlot new greet[/]                        write a first function
  [cyan]sandlot invoke greet '{"name": "Ada"}'[/]   call it

Exit codes: 0 success, 1 the function failed, 2 wrong request, 3 try again later, 4 wrong installation.
"""

# Panels and commands in the order in which a newcomer needs them.
_PANELS: Final[dict[str, tuple[Callable[..., None], ...]]] = {
    "Run": (up, api, worker),
    "Functions": (new, run, dev, deploy, functions, rollback, download, invoke),
    "Jobs": (jobs, job, logs, batch, dead_letters),
    "Operate": (status, top, doctor, admin.redis_acl),
}

app = typer.Typer(
    name="sandlot",
    help=_ABOUT,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.add_typer(admin.secrets, name="secret", rich_help_panel="Operate")
app.add_typer(admin.keys, name="key", rich_help_panel="Operate")
app.add_typer(admin.audits, name="audit", rich_help_panel="Operate")


def main() -> None:
    """Run the `sandlot` command and exit."""
    try:
        app()
    except SandlotError as error:
        from sandlot.cli.output import exit_code, print_error

        print_error(error.message)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has closed the pipe (`sandlot functions | head -1`). Without
        # this, the interpreter would report the error again when it flushes stdout.
        sys.stderr.close()
        sys.exit(0)


def _print_version(requested: bool) -> None:
    if requested:
        from sandlot.cli.installation import release

        print(f"sandlot {release()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
