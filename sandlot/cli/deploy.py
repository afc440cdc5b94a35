"""`sandlot deploy`: send files, folders and zips to the API, and wait for their dependencies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sandlot.cli.options import AsJson, IfMatch, Url, open_client
from sandlot.cli.output import exit_code, note, print_error, print_json
from sandlot.errors import InvalidManifest, SandlotError, VersionFailed

if TYPE_CHECKING:
    from sandlot.client import Client

POLL_S: Final = 0.5
"""Pause between two questions whether a version's dependencies are installed."""


def deploy(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Source files (.py, .js, .mjs, .cjs), folders with a function.toml, and zips of such folders."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the function, for a single path (default: the file's name).")
    ] = None,
    if_match: IfMatch = "",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Deploy functions. Redeploying unchanged code keeps the current version.

    [bold]Examples:[/]
      sandlot deploy functions/hello.py
      sandlot deploy functions/*
    """
    chosen = [found for path in paths for found in _functions_at(path)]
    for listing in _ignored_dependency_lists(paths):
        note(
            f"{listing} is ignored: {listing.parent}/ has no function.toml, so each file in it is a function of its own"
        )
    if (name is not None or if_match) and len(chosen) != 1:
        raise typer.BadParameter("--name and --if-match need exactly one path")
    deployed, failed = _deploy_each(chosen, name, if_match, url, as_json)
    if as_json:
        print_json(deployed)
    if failed:
        raise typer.Exit(failed)


def deploy_path(
    client: Client, path: Path, *, name: str | None = None, node: Path | None = None, revision: str = ""
) -> dict[str, Any]:
    """Check a file, folder or zip here, where file and line are known, and deploy it.

    Args:
        revision: if given, deploy nothing unless the function is still at this revision.

    Returns:
        The API's document of the version.

    Raises:
        InvalidManifest: the path does not hold a valid function; the message names file and line.
        SandlotError: the API refused it.
    """
    # Imported late: sandlot.functions imports redis, which most commands do without.
    from sandlot.functions import function_name, read_archive, read_path, write_archive
    from sandlot.functions.source import folder_files

    if not path.exists():
        raise InvalidManifest(f"{path}: there is no such file or folder")
    if path.suffix == ".zip" and path.is_file():
        archive = path.read_bytes()
        try:
            read_archive(archive, node=node)
        except InvalidManifest as error:
            raise InvalidManifest(f"{path.name}: {error.message}") from error
        return client.deploy_archive(name or function_name(path.with_suffix("")), archive, revision=revision)
    target, _, _ = read_path(path, name=name, node=node)
    if path.is_dir():
        return client.deploy_archive(target, write_archive(folder_files(path)), revision=revision)
    source = path.read_bytes().decode("utf-8-sig")
    return client.deploy(target, source=source, filename=path.name, revision=revision)


def wait_until_active(
    client: Client, deployed: Mapping[str, Any], report: Callable[[str], None] = lambda _step: None
) -> dict[str, Any]:
    """Block until a deployed version's dependencies are installed; return its document.

    Args:
        report: is called with each new step of the installation.

    Raises:
        VersionFailed: the dependencies cannot be installed; the message is the resolver's.
        SandlotError: the API answered with an error.
    """
    document, reported = dict(deployed), ""
    while document["state"] == "pending":
        time.sleep(POLL_S)
        document = refresh_version(client, document)
        step = f"dependencies: {document.get('progress', '')}" if document["state"] == "pending" else ""
        if step and step != reported:
            reported = step
            report(f"{document['name']} version {document['version']}: {step}")
    return document


def refresh_version(client: Client, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of the same version as it is now.

    Raises:
        VersionFailed: its dependencies cannot be installed; the message is the resolver's.
        SandlotError: the API answered with an error.
    """
    now = client.function(str(document["name"]), version=str(document["version"]))
    if now["state"] == "failed":
        serving = f"; version {now['latest']} still serves" if now.get("latest") else ""
        raise VersionFailed(
            f"{now['name']} version {now['version']}: its dependencies cannot be installed{serving}\n{now['reason']}"
        )
    # Only the reply to the deploy has `changed` and `warnings`.
    return {**document, **now}


def _deploy_each(
    paths: Sequence[Path], name: str | None, revision: str, url: str | None, as_json: bool
) -> tuple[list[dict[str, Any]], int]:
    """Deploy each path, also after a failure.

    Returns the deployed versions, and the exit code of the first failure or 0.
    """
    failed = 0
    deployed = []
    with open_client(url) as client:
        for path in paths:
            try:
                version = wait_until_active(client, deploy_path(client, path, name=name, revision=revision), note)
            except SandlotError as error:
                print_error(error.message)
                failed = failed or exit_code(error)
                continue
            deployed.append(version)
            if not as_json:
                unchanged = "" if version.get("changed", True) else " (unchanged)"
                print(f"{version['name']} version {version['version']}{unchanged}")
            for warning in version.get("warnings", []):
                note(f"{version['name']}: {warning}")
    return deployed, failed


def _functions_at(path: Path) -> list[Path]:
    """Return the functions in a folder of functions; for any other path, the path itself."""
    from sandlot.functions.source import function_paths

    return function_paths(path) if path.is_dir() and not (path / "function.toml").is_file() else [path]


def _ignored_dependency_lists(paths: Sequence[Path]) -> list[Path]:
    """Find requirements.txt and package.json in folders of functions, where they have no effect."""
    folders = [path for path in paths if path.is_dir() and not (path / "function.toml").is_file()]
    listings = [folder / name for folder in folders for name in ("requirements.txt", "package.json")]
    return [listing for listing in listings if listing.is_file()]
