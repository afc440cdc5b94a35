"""Every command, its options and its help, in the order in which a newcomer needs them.

Knows: the command line's grammar and the exit codes. Does not know: what the commands do; each is in a file of its own, imported when it runs.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sandlot.cli.commands import functions, jobs, operate, run, watch
from sandlot.errors import SandlotError

_ABOUT = """
Run functions on machines you own: isolated, durable, fast.

[bold]Start here[/]
  [cyan]sandlot up[/]                               queue, API, worker, functions
  [cyan]sandlot new greet[/]                        write a first function
  [cyan]sandlot invoke greet '{"name": "Ada"}'[/]   call it

Exit codes: 0 fine, 1 the function failed, 2 the request is wrong, 3 not now (try again), 4 this installation is wrong.
"""

app = typer.Typer(
    name="sandlot",
    help=_ABOUT,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The entry point of the `sandlot` command."""
    try:
        app()
    except SandlotError as error:
        from sandlot.cli.output import exit_code, print_error

        print_error(error.message)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has had enough (`sandlot functions | head -1`); the interpreter would complain when it flushes.
        sys.stderr.close()
        sys.exit(0)


def _version(asked: bool) -> None:
    if asked:
        from sandlot.cli.installation import release

        print(f"sandlot {release()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# In the order in which a newcomer needs them.
for _group in (run, functions, jobs, watch, operate):
    app.add_typer(_group.commands)
