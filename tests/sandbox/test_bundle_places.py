"""Where the host keeps a runtime does not matter, and is not seen inside."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.runtime_process import RUNTIMES, find_node, node_flags
from worker.sandbox.host import SandboxHost
from worker.sandbox.spec import find_node_runtime


@pytest.fixture
def node_below_tmp() -> Iterator[Path]:
    """A checkout under /tmp has its Node there; the sandbox's own /tmp hid it, and Node was restricted on such machines."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        copy = Path(folder) / "node"
        shutil.copy2(os.path.realpath(find_node()), copy)
        yield copy


async def test_node_below_tmp_is_strict(node_below_tmp: Path, tmp_path: Path) -> None:
    runtime = find_node_runtime(RUNTIMES / "node", node_below_tmp, tuple(node_flags()))
    async with await SandboxHost.open(level="strict", runtimes=[runtime], state_dir=tmp_path) as host:
        assert host.level == "strict"
