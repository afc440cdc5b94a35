"""`sandlot api` and `sandlot worker`: become that process.

Knows: how options turn into the settings of a server process. Does not know: what the process does with them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from sandlot.cli import installation


def replace_with(program: installation.Program, options: Mapping[str, object]) -> None:
    """Run this program instead of ourselves (same process id, so that signals and supervisors reach it); does not return."""
    given = {name: str(value) for name, value in options.items() if value is not None}
    command = installation.command(program)
    os.execve(command[0], command, installation.environment(given))  # noqa: S606 - our own interpreter, a fixed list of words
