"""What a sandbox costs while it waits: a worker keeps some of them ready, and each version's warm."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.sandbox.level_rig import PATIENCE_S, open_level, processes_of
from worker.sandbox.sandbox import Sandbox

BOUND_KIB = 3_500
"""2,900 measured with Python 3.11, 4,200 before the zygote rehearsed and a mould forked."""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into the processes of a sandbox")
async def test_a_waiting_sandbox_has_little_memory_of_its_own() -> None:
    async with open_level("strict") as host:
        sandboxes = [await host.prewarm("python") for _ in range(3)]
        async with asyncio.timeout(PATIENCE_S):
            while not all(waits_for_its_function(sandbox) for sandbox in sandboxes):  # noqa: ASYNC110 - the condition is another process's
                await asyncio.sleep(0.002)
        # Not the last: what its parent writes to after the fork is each one's own too.
        held_kib = [sum(own_kib(pid) for pid in processes_of(sandbox)) for sandbox in sandboxes[:-1]]
        for sandbox in sandboxes:
            sandbox.kill()
            await sandbox.ended()
            sandbox.close()
    assert max(held_kib) < BOUND_KIB


def waits_for_its_function(sandbox: Sandbox) -> bool:
    """Whether the runtime has done all it does ahead, and reads its control descriptor (proc(5), syscall)."""
    _first, runtime = processes_of(sandbox)
    return Path(f"/proc/{runtime}/syscall").read_text().split()[1:2] == ["0x3"]


def own_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1])
    raise AssertionError("no Private_Dirty in smaps_rollup")
