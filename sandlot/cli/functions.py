"""`sandlot deploy` and `sandlot functions`.

Knows: what is asked of the API for them. Does not know: how a deploy is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from sandlot.cli.access import open_client
from sandlot.cli.output import exit_code, note, print_error, print_functions, print_json
from sandlot.errors import CallerError, SandlotError
from sandlot.models import LATEST


def deploy_all(paths: Sequence[Path], name: str | None, revision: str, url: str | None, as_json: bool) -> None:
    """Deploy each; the first failure decides the exit code, the others are deployed all the same."""
    # Here, because it brings redis along, which the other commands do without.
    from sandlot.cli.deploy import deploy_path
    from sandlot.cli.progress import wait_until_active

    chosen = [found for path in paths for found in _functions_at(path)]
    for listing in _unread_listings(paths):
        note(
            f"{listing} is not read: without a function.toml beside it, {listing.parent}/ is a folder of functions, not one"
        )
    if (name is not None or revision) and len(chosen) != 1:
        raise typer.BadParameter("--name and --if-match are for a single path")
    failed = 0
    deployed = []
    with open_client(url) as client:
        for path in chosen:
            try:
                sent = deploy_path(client, path, name=name, revision=revision)
                answer = wait_until_active(client, sent, note)
            except SandlotError as error:
                print_error(error.message)
                failed = failed or exit_code(error)
                continue
            deployed.append(answer)
            if not as_json:
                print(
                    f"{answer['name']} version {answer['version']}{'' if answer.get('changed', True) else ' (unchanged)'}"
                )
            for warning in answer.get("warnings", []):
                note(f"{answer['name']}: {warning}")
    if as_json:
        print_json(deployed)
    if failed:
        raise typer.Exit(failed)


def list_all(url: str | None, as_json: bool) -> None:
    with open_client(url) as client:
        found = client.functions()
    if as_json:
        print_json(found)
    elif found:
        print_functions(found)
    else:
        note("nothing is deployed; write a first function with: sandlot new NAME")


def show(name: str, url: str | None, as_json: bool) -> None:
    with open_client(url) as client:
        function = client.function(name)
    if as_json:
        print_json(function)
        return
    print_functions([function])
    for version in function.get("versions", []):
        note(
            f"version {version['version']}  {version['digest'][:12]}{'  latest' if version['version'] == function.get('latest') else ''}"
        )
    for waiting in function.get("waiting", []):
        why = waiting.get("reason") or waiting.get("progress", "")
        note(f"version {waiting['version']}  {waiting['digest'][:12]}  {waiting['state']}: {why}")
    if "next_run_at" in function:
        note(f"due next at {function['next_run_at']}{_schedule(function['manifest'])}")
    note(f"revision {function['revision']}, for --if-match")
    for alias, target in function.get("aliases", {}).items():
        shares = "".join(f", {share:.0%} to version {number}" for number, share in target.get("weights", {}).items())
        note(f"{alias} is version {target['version']}{shares}")


def _schedule(manifest: Mapping[str, Any]) -> str:
    return f": {manifest['schedule']} in {manifest.get('timezone', 'UTC')}" if "schedule" in manifest else ""


def roll_back(name: str, version: int, alias: str, shares: Sequence[str], revision: str, url: str | None) -> None:
    weights = dict(map(_share, shares))
    with open_client(url) as client:
        client.move_alias(name, alias, version, weights=weights, revision=revision)
    print(f"{name} {'is' if alias == LATEST else alias + ' is'} version {version} from now on")


def download(name: str, version: str, target: Path | None, url: str | None) -> None:
    """Write a version's code to a file that is not there yet.

    Raises:
        CallerError: the file is there, or cannot be written.
    """
    with open_client(url) as client:
        archive = client.download(name, version)
    path = target or Path(f"{name}.zip")
    try:
        with path.open("xb") as file:
            file.write(archive)
    except OSError as error:
        raise CallerError(f"cannot write {path}: {error.strerror}") from error
    print(f"wrote {path}; sandlot deploy {path} deploys it again")


def remove(name: str, url: str | None) -> None:
    with open_client(url) as client:
        client.delete(name)
    print(f"{name} is removed")


def remove_alias(name: str, alias: str, url: str | None) -> None:
    with open_client(url) as client:
        client.delete_alias(name, alias)
    print(f"{name} has no alias {alias} any more")


def _share(written: str) -> tuple[int, float]:
    """`4=0.1` or `4=10%`."""
    number, _, share = written.partition("=")
    try:
        return int(number), float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
    except ValueError:
        raise typer.BadParameter(f"--share {written}: write a version and its share, as in 2=10%") from None


def _unread_listings(paths: Sequence[Path]) -> list[Path]:
    """Lists of dependencies in folders that are no function, where somebody may think that they count."""
    folders = [path for path in paths if path.is_dir() and not (path / "function.toml").is_file()]
    listings = [folder / name for folder in folders for name in ("requirements.txt", "package.json")]
    return [listing for listing in listings if listing.is_file()]


def _functions_at(path: Path) -> list[Path]:
    """The path itself, or, for a folder that is no function, the functions in it."""
    from sandlot.functions.source import function_paths

    return function_paths(path) if path.is_dir() and not (path / "function.toml").is_file() else [path]
