"""`sandlot api` and `sandlot worker`: become that process.

Knows: how options turn into the settings of a server process, and which Redis is meant if none is named. Does not know: what the process does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandlot.cli import installation
from sandlot.cli.access import data_dir
from sandlot.cli.data_dir import DataDir
from sandlot.settings import load_settings


def replace_with(program: installation.Program, options: Mapping[str, object], words: Sequence[str] = ()) -> None:
    """Run this program instead of ourselves (same process id, so that signals and supervisors reach it); does not return.

    Without a Redis of its own it joins the `sandlot up` that runs in this folder, or in one above.
    """
    given = {name: str(value) for name, value in options.items() if value is not None}
    named = {"SANDLOT_REDIS_URL", "SANDLOT_REDIS_URL_FILE"} & {*given, *os.environ}
    home = DataDir(Path(given["SANDLOT_DATA"])) if "SANDLOT_DATA" in given else data_dir(load_settings())
    running = home.running()
    if not named and running is not None:
        given |= {"SANDLOT_REDIS_URL": running.redis_url, "SANDLOT_DATA": str(home.path)}
    command = [*installation.command(program), *words]
    os.execve(command[0], command, installation.environment(given))  # noqa: S606 - our own interpreter, a fixed list of words
