"""The commands of the help's panel "Functions": new, run, dev, deploy, functions, rollback, download, invoke.

Knows: their options and their help. Does not know: what they do; each is in a file of its own, imported when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sandlot.cli.options import AsJson, Event, EventSource, IfMatch, Url
from sandlot.models import Runtime

commands = typer.Typer(rich_markup_mode="rich")


@commands.command(rich_help_panel="Functions")
def new(
    name: Annotated[str, typer.Argument(help="Its name: letters, digits, hyphens.")],
    runtime: Annotated[Runtime, typer.Option(help="What it is written in.")] = Runtime.PYTHON,
    functions: Annotated[Path, typer.Option("--functions", metavar="DIR", help="Folder to write it into.")] = Path(
        "functions"
    ),
) -> None:
    """Write a first version of a function, and its test.

    The test goes into tests/ beside the functions' folder.

    [bold]Example:[/] sandlot new resize --runtime node
    """
    from sandlot.cli.scaffold import write_function, write_test

    path = write_function(functions, name, runtime)
    test = write_test(path, name)
    print(f"wrote {path} and {test}")
    print(f"`sandlot run {path}` runs it here, `sandlot up` deploys it when it is saved, `python -m pytest` tests it")


@commands.command(rich_help_panel="Functions")
def run(
    path: Annotated[Path, typer.Argument(help="Its file, its folder, or a zip of that.")],
    event: Event = None,
    source: EventSource = None,
    as_json: AsJson = False,
) -> None:
    """Call a function that is not deployed: once, on this machine, in its sandbox, with no server.

    Its answer is on stdout, what it prints and how it went on stderr. Secrets that it names are taken from the environment.

    [bold]Examples:[/]
      sandlot run functions/greet.py '{"name": "Ada"}'
      sandlot run functions/csv_report.py --event table.json
    """
    from sandlot.cli.events import read_event
    from sandlot.cli.local import run_once

    run_once(path, read_event(event, source), as_json)


@commands.command(rich_help_panel="Functions")
def dev(
    functions: Annotated[Path, typer.Option("--functions", metavar="DIR", help="Folder of functions.")] = Path(
        "functions"
    ),
    url: Url = None,
) -> None:
    """Deploy a folder, again with every save, and show its calls with their logs.

    It needs a platform that runs, here or elsewhere. `sandlot up` watches its folder by itself; this is for a folder of your own, or a platform elsewhere. Ctrl+C stops it.

    [bold]Example:[/] sandlot dev --url https://functions.example.com
    """
    from sandlot.cli.dev import dev as watch

    watch(functions, url)


@commands.command(rich_help_panel="Functions")
def deploy(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Source files (.py, .js, .mjs, .cjs), folders with a function.toml, and zips of such folders."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Its name, for a single path (default: that of the file).")] = None,
    if_match: IfMatch = "",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Deploy functions; the same code again is the same version again.

    [bold]Examples:[/] sandlot deploy functions/hello.py    sandlot deploy functions/*
    """
    from sandlot.cli.functions import deploy_all

    deploy_all(paths, name, if_match, url, as_json)


@commands.command(rich_help_panel="Functions")
def functions(
    name: Annotated[str | None, typer.Argument(help="Show this one, with all its versions.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it, with all its versions.")] = False,
    alias: Annotated[str | None, typer.Option(help="With --delete: remove this alias of it, and nothing else.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List what is deployed, show one function, or remove it.

    [bold]Examples:[/] sandlot functions    sandlot functions hello    sandlot functions hello --delete
    """
    from sandlot.cli.functions import list_all, remove, remove_alias, show

    if alias is not None and (name is None or not delete):
        raise typer.BadParameter("--alias goes with a name and --delete: sandlot functions NAME --delete --alias ALIAS")
    if name is None:
        if delete:
            raise typer.BadParameter("say which one: sandlot functions NAME --delete")
        list_all(url, as_json)
    elif alias is not None:
        remove_alias(name, alias, url)
    elif delete:
        remove(name, url)
    else:
        show(name, url, as_json)


@commands.command(rich_help_panel="Functions")
def rollback(
    name: Annotated[str, typer.Argument(help="The function.")],
    version: Annotated[int, typer.Argument(help="The version to go back (or forward) to.", min=1)],
    alias: Annotated[str, typer.Option(help="Move this alias instead; it is made if there is none.")] = "$LATEST",
    shares: Annotated[
        list[str] | None,
        typer.Option(
            "--share",
            metavar="VERSION=SHARE",
            help="Of the alias's calls, so many go to that version (0.1 or 10%); may be repeated.",
        ),
    ] = None,
    if_match: IfMatch = "",
    url: Url = None,
) -> None:
    """Let a function, or one of its aliases, mean another version from now on.

    [bold]Examples:[/] sandlot rollback hello 3    sandlot rollback hello 3 --alias prod --share 4=10%
    """
    from sandlot.cli.functions import roll_back

    roll_back(name, version, alias, shares or (), if_match, url)


@commands.command(rich_help_panel="Functions")
def download(
    name: Annotated[str, typer.Argument(help="The function.")],
    version: Annotated[str, typer.Option(help="A version's number, or an alias.")] = "$LATEST",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file (default: NAME.zip).")] = None,
    url: Url = None,
) -> None:
    """Fetch a version's code and settings as a zip, which `sandlot deploy` takes.

    [bold]Example:[/] sandlot download hello --version 3 -o hello-3.zip
    """
    from sandlot.cli.functions import download as fetch

    fetch(name, version, output, url)


@commands.command(rich_help_panel="Functions")
def invoke(
    name: Annotated[str, typer.Argument(help="The function.")],
    event: Event = None,
    source: EventSource = None,
    respond_async: Annotated[bool, typer.Option("--async", help="Queue it and print the job's id.")] = False,
    wait: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Wait at most so long; the job goes on.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="A version other than the latest, or an alias.")] = None,
    callback: Annotated[
        str | None, typer.Option(metavar="URL", help="With --async: is told of the end by a signed POST.")
    ] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Show what it printed, too.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Call a function: its answer on stdout, everything else on stderr.

    [bold]Examples:[/]
      sandlot invoke hello
      sandlot invoke markdown '{"markdown": "# Hi"}' | jq -r .html
      sandlot invoke csv-report --event table.json --logs
      sandlot invoke slow --async
    """
    from sandlot.cli.events import read_event
    from sandlot.cli.jobs import call, queue

    text = read_event(event, source)
    if respond_async:
        queue(name, text, version, callback, url, as_json)
    elif callback is not None:
        raise typer.BadParameter("is for calls that nobody waits for: add --async", param_hint="--callback")
    else:
        call(name, text, wait, version, logs, url, as_json)
