"""Where the server's own packages are, and how a process of it is started.

Knows: the two layouts (a checkout, and a wheel with `sandlot/_server/`) and the interpreter's flags. Does not know: settings, ports.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import sandlot
from sandlot.errors import InvalidSettings

_SERVER: Final = os.path.join("sandlot", "_server")
Program = Literal["api", "worker", "worker.doctor", "worker.run_once"]


def server_root() -> Path:
    """The folder that holds the packages `api`, `worker` and `runtimes`.

    Raises:
        InvalidSettings: this installation has none, which only a broken one can bring about.
    """
    package = Path(sandlot.__file__).resolve().parent
    for root in (package / "_server", package.parent):
        if (root / "api" / "__init__.py").is_file() and (root / "worker" / "__init__.py").is_file():
            return root
    raise InvalidSettings(f"{package} has no server beside it; install Sandlot again")


def command(program: Program) -> list[str]:
    """The command that runs one of the server's programs, to be given `environment` as its environment.

    `-P` keeps the current folder off the module path: a user's `api/` or `json.py` there must not become ours.
    """
    return [sys.executable, "-P", "-m", program]


def command_line() -> list[str]:
    """The `sandlot` command of this installation, to be given its arguments."""
    return [sys.executable, "-P", "-m", "sandlot"]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these settings on top and the server's packages in reach."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # Of another version, whose API starts this one's process at an upgrade: nothing of it must be found from here.
    inherited = [path for path in given if path and not path.endswith(_SERVER)]
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        **settings,
        "PYTHONPATH": os.pathsep.join([str(server_root()), *inherited]),
    }


def installed_script() -> Path | None:
    """The `sandlot` that was called, by the path it was called by, links and all; None if it was not by one (`python -m sandlot`)."""
    called = Path(os.path.abspath(sys.argv[0]))
    return called if called.name == "sandlot" and os.access(called, os.X_OK) and called.is_file() else None


def own_command() -> str:
    """How this person starts `sandlot`: by its name if their PATH has it, else by the shortest path from here."""
    script = Path(sys.executable).parent / "sandlot"
    if shutil.which("sandlot") or not script.is_file():
        return "sandlot"
    return str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)


def release() -> str:
    """This installation's version, as its metadata has it."""
    try:
        return version("sandlot")
    except PackageNotFoundError:
        return "unknown (not installed)"
