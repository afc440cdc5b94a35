"""Options that several commands share, and the API client and data folder that they select."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sandlot.cli.data_dir import DataDir
    from sandlot.client import Client
    from sandlot.settings import Settings

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="URL of the API (default: the one that `sandlot up` runs here)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder for keys, logs and data (default: .sandlot).")
]
RedisUrl = Annotated[
    str | None, typer.Option("--redis-url", metavar="URL", help="Redis or Valkey (default: SANDLOT_REDIS_URL).")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow listening on a network without TLS or a declared proxy.")
]
InsecureRedis = Annotated[bool, typer.Option("--insecure-redis", help="Allow Redis over a network without TLS.")]
Event = Annotated[
    str | None, typer.Argument(help="The event: JSON, @FILE to read it from a file, or - to read it from stdin.")
]
EventSource = Annotated[
    str | None, typer.Option("--event", metavar="FILE", help="Read the event from this file, or from stdin if it is -.")
]
IfMatch = Annotated[
    str,
    typer.Option(
        metavar="REVISION",
        help="Change nothing unless the function is still at this revision, as `sandlot functions NAME` shows it.",
    ),
]


def open_client(url: str | None) -> Client:
    """Return a client for the API that the options and the environment select.

    The URL comes from `url` (the option), `SANDLOT_URL`, the `sandlot up` that uses the nearest
    data folder, or the default, in this order. The key comes from `SANDLOT_KEY`,
    `SANDLOT_KEY_FILE` or the nearest data folder; without one, only public functions can be called.

    Raises:
        InvalidSettings: a setting is not valid, or the key's file cannot be read.
    """
    from sandlot.client import Client
    from sandlot.settings import load_settings

    settings = load_settings(url=url)
    data = find_data_dir(settings)
    running = data.running()
    if url is None and "SANDLOT_URL" not in os.environ and running is not None:
        return Client(running.url, _read_key(settings, data))
    return Client(settings.url, _read_key(settings, data), ca_file=settings.ca_file)


def find_data_dir(settings: Settings) -> DataDir:
    """Return the data folder that `SANDLOT_DATA` names, or else the nearest one."""
    from sandlot.cli.data_dir import DataDir

    return DataDir(settings.data) if "SANDLOT_DATA" in os.environ else DataDir.nearest()


def _read_key(settings: Settings, data: DataDir) -> str:
    from sandlot.settings import read_secret_file

    if settings.key.get_secret_value():
        return settings.key.get_secret_value()
    if settings.key_file is None and not data.key_file.is_file():
        return ""
    return read_secret_file(settings.key_file or data.key_file, "API key", "SANDLOT_KEY")
