"""Location of the server's packages, and how its programs are started.

There are two layouts: a checkout, and a wheel with the server in `sandlot/_server/`.
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
ServerModule = Literal["api", "worker", "worker.doctor", "worker.run_once"]


def server_root() -> Path:
    """Return the folder that holds the packages `api`, `worker` and `runtimes`.

    Raises:
        InvalidSettings: there is none, so the installation is broken.
    """
    package = Path(sandlot.__file__).resolve().parent
    for root in (package / "_server", package.parent):
        if (root / "api" / "__init__.py").is_file() and (root / "worker" / "__init__.py").is_file():
            return root
    raise InvalidSettings(f"{package} has no server beside it; install Sandlot again")


def command(program: ServerModule) -> list[str]:
    """Return the command that runs a server program; run it with the environment of `environment`.

    `-P` keeps the current folder off the module path, so that a user's `api/` or `json.py` there
    is not imported instead of ours.
    """
    return [sys.executable, "-P", "-m", program]


def command_line() -> list[str]:
    """Return the `sandlot` command of this installation, without arguments."""
    return [sys.executable, "-P", "-m", "sandlot"]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with `settings` and the server's packages on PYTHONPATH."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # During an upgrade, another release's API starts this one's process. Its packages must not be
    # found from here.
    inherited = [path for path in given if path and not path.endswith(_SERVER)]
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        **settings,
        "PYTHONPATH": os.pathsep.join([str(server_root()), *inherited]),
    }


def installed_script() -> Path | None:
    """Return the `sandlot` script by the path it was called by, with symbolic links kept.

    None if this process was started another way (`python -m sandlot`).
    """
    called = Path(os.path.abspath(sys.argv[0]))
    return called if called.name == "sandlot" and os.access(called, os.X_OK) and called.is_file() else None


def own_command() -> str:
    """Return the command for this user's shell: `sandlot` if PATH has it, or the shortest path."""
    script = Path(sys.executable).parent / "sandlot"
    if shutil.which("sandlot") or not script.is_file():
        return "sandlot"
    return str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)


def release() -> str:
    """Return the installed version from the package's metadata."""
    try:
        return version("sandlot")
    except PackageNotFoundError:
        return "unknown (not installed)"
