"""Which API the command talks to, and with which key.

Knows: the order in which both are looked for. Does not know: what is asked of the API.
"""

from __future__ import annotations

import os

from sandlot.cli.data_dir import DataDir
from sandlot.client import Client
from sandlot.settings import Settings, load_settings, read_secret_file


def open_client(url: str | None) -> Client:
    """A client for the API.

    The URL is the one of the option, of `SANDLOT_URL`, of the `sandlot up` that uses the nearest data folder, or the default. The key is
    `SANDLOT_KEY`, in `SANDLOT_KEY_FILE`, or in the nearest data folder; without any, only public functions can be called.

    Raises:
        InvalidSettings: a setting cannot be used, or the key's file cannot be read.
    """
    settings = load_settings(url=url)
    home = data_dir(settings)
    running = home.running()
    if url is None and "SANDLOT_URL" not in os.environ and running is not None:
        return Client(running.url, _key(settings, home))
    return Client(settings.url, _key(settings, home), ca_file=settings.ca_file)


def data_dir(settings: Settings) -> DataDir:
    """The data folder that `SANDLOT_DATA` names, else the nearest one."""
    return DataDir(settings.data) if "SANDLOT_DATA" in os.environ else DataDir.nearest()


def _key(settings: Settings, home: DataDir) -> str:
    if settings.key.get_secret_value():
        return settings.key.get_secret_value()
    if settings.key_file is None and not home.key_file.is_file():
        return ""
    return read_secret_file(settings.key_file or home.key_file, "API key", "SANDLOT_KEY")
