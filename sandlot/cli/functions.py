"""`sandlot new`, `functions`, `rollback` and `download`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sandlot.cli.options import AsJson, IfMatch, Url, open_client
from sandlot.cli.output import note, print_functions, print_json
from sandlot.errors import CallerError
from sandlot.models import LATEST, Runtime


def new(
    name: Annotated[str, typer.Argument(help="Name of the function: letters, digits and hyphens.")],
    runtime: Annotated[Runtime, typer.Option(help="Language it is written in.")] = Runtime.PYTHON,
    functions: Annotated[Path, typer.Option("--functions", metavar="DIR", help="Folder to write it to.")] = Path(
        "functions"
    ),
) -> None:
    """Write a first version of a function, and a test for it.

    The test goes into tests/, next to the folder of functions.

    [bold]Example:[/] sandlot new resize --runtime node
    """
    from sandlot.cli.scaffold import write_function, write_test

    path = write_function(functions, name, runtime)
    test = write_test(path, name)
    print(f"wrote {path} and {test}")
    print(f"`sandlot run {path}` runs it here, `sandlot up` deploys it on every save, `python -m pytest` tests it")


def functions(
    name: Annotated[str | None, typer.Argument(help="Show this function, with all its versions.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the function, with all its versions.")] = False,
    alias: Annotated[str | None, typer.Option(help="With --delete: delete only this alias of the function.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List the deployed functions, show one, or delete one.

    [bold]Examples:[/]
      sandlot functions
      sandlot functions hello
      sandlot functions hello --delete
    """
    if alias is not None and (name is None or not delete):
        raise typer.BadParameter("--alias needs a name and --delete: sandlot functions NAME --delete --alias ALIAS")
    if name is None:
        if delete:
            raise typer.BadParameter("say which function: sandlot functions NAME --delete")
        _list_functions(url, as_json)
    elif alias is not None:
        _delete_alias(name, alias, url)
    elif delete:
        _delete_function(name, url)
    else:
        _show_function(name, url, as_json)


def rollback(
    name: Annotated[str, typer.Argument(help="The function.")],
    version: Annotated[int, typer.Argument(help="The version to go back (or forward) to.", min=1)],
    alias: Annotated[
        str, typer.Option(help="Point this alias at the version instead; it is created if it does not exist.")
    ] = "$LATEST",
    shares: Annotated[
        list[str] | None,
        typer.Option(
            "--share",
            metavar="VERSION=SHARE",
            help="Send this share (0.1 or 10%) of the alias's calls to another version. Repeatable.",
        ),
    ] = None,
    if_match: IfMatch = "",
    url: Url = None,
) -> None:
    """Point a function or alias at another version.

    [bold]Examples:[/]
      sandlot rollback hello 3
      sandlot rollback hello 3 --alias prod --share 4=10%
    """
    weights = dict(map(_parse_share, shares or ()))
    with open_client(url) as client:
        client.move_alias(name, alias, version, weights=weights, revision=if_match)
    print(f"{name if alias == LATEST else f'{name} {alias}'} is now version {version}")


def download(
    name: Annotated[str, typer.Argument(help="The function.")],
    version: Annotated[str, typer.Option(help="A version's number, or an alias.")] = "$LATEST",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write, which must not exist (default: NAME.zip).")
    ] = None,
    url: Url = None,
) -> None:
    """Download a version's code and settings as a zip that `sandlot deploy` accepts.

    [bold]Example:[/] sandlot download hello --version 3 -o hello-3.zip
    """
    with open_client(url) as client:
        archive = client.download(name, version)
    path = output or Path(f"{name}.zip")
    try:
        with path.open("xb") as file:
            file.write(archive)
    except OSError as error:
        raise CallerError(f"cannot write {path}: {error.strerror}") from error
    print(f"wrote {path}; to deploy it again: sandlot deploy {path}")


def _list_functions(url: str | None, as_json: bool) -> None:
    with open_client(url) as client:
        found = client.functions()
    if as_json:
        print_json(found)
    elif found:
        print_functions(found)
    else:
        note("no functions are deployed; write a first one with: sandlot new NAME")


def _show_function(name: str, url: str | None, as_json: bool) -> None:
    with open_client(url) as client:
        function = client.function(name)
    if as_json:
        print_json(function)
        return
    print_functions([function])
    for version in function.get("versions", []):
        latest = "  latest" if version["version"] == function.get("latest") else ""
        note(f"version {version['version']}  {version['digest'][:12]}{latest}")
    for pending in function.get("waiting", []):
        why = pending.get("reason") or pending.get("progress", "")
        note(f"version {pending['version']}  {pending['digest'][:12]}  {pending['state']}: {why}")
    if "next_run_at" in function:
        note(f"next run at {function['next_run_at']}{_describe_schedule(function['manifest'])}")
    note(f"revision {function['revision']}, for --if-match")
    for alias, target in function.get("aliases", {}).items():
        shares = "".join(f", {share:.0%} to version {number}" for number, share in target.get("weights", {}).items())
        note(f"{alias} is version {target['version']}{shares}")


def _describe_schedule(manifest: Mapping[str, Any]) -> str:
    return f": {manifest['schedule']} in {manifest.get('timezone', 'UTC')}" if "schedule" in manifest else ""


def _delete_function(name: str, url: str | None) -> None:
    with open_client(url) as client:
        client.delete(name)
    print(f"{name} is deleted")


def _delete_alias(name: str, alias: str, url: str | None) -> None:
    with open_client(url) as client:
        client.delete_alias(name, alias)
    print(f"alias {alias} of {name} is deleted")


def _parse_share(text: str) -> tuple[int, float]:
    """Parse `4=0.1` or `4=10%` into a version and a fraction."""
    number, _, share = text.partition("=")
    try:
        return int(number), float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
    except ValueError:
        raise typer.BadParameter(f"--share {text}: write a version and its share, such as 2=10%") from None
