"""The walls of this machine, wall by wall: a small escape suite for `sandlot doctor`.

Knows: levels in their order. Does not know: how a wall is attacked (`verify`), how a result is shown.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sandlot.errors import SandboxUnavailable
from worker.sandbox.policy import Level, RuntimeCommand
from worker.sandbox.uids import reserve_block
from worker.sandbox.verify import ProbeResult, attack, explain
from worker.sandbox.zygote_link import ZygoteLink


async def probe(
    *,
    level: Literal["auto", "strict", "restricted"],
    runtimes: Sequence[RuntimeCommand],
    state_dir: Path,
    missing: tuple[str, ...] = (),
) -> list[ProbeResult]:
    """Every wall of the level a worker would use here, named `strict python: files` and so on.

    With `auto`, the walls of `restricted` follow if one of `strict` does not hold. Never raises for a wall that cannot be had:
    that is a result, with its remedy.
    """
    levels: tuple[Level, ...] = ("strict", "restricted") if level == "auto" else (level,)
    results: list[ProbeResult] = []
    for candidate in levels:
        found = [await _probe_runtime(candidate, runtime, state_dir, missing) for runtime in runtimes]
        results += [result for group in found for result in group]
        if all(result.held for group in found for result in group):
            break
    return results


async def _probe_runtime(
    level: Level, runtime: RuntimeCommand, state_dir: Path, missing: tuple[str, ...]
) -> list[ProbeResult]:
    folder = _make_folder(state_dir)
    uid_base, lock = reserve_block() if os.geteuid() == 0 else (0, None)
    link = ZygoteLink(runtime, level, folder, uid_base, lambda _link: None, missing)
    try:
        await link.open()
        found = await attack(link)
    except SandboxUnavailable as error:
        found = [ProbeResult("start", False, error.message, explain(level, error.message))]
    finally:
        await link.close()
        if lock is not None:
            lock.close()
        shutil.rmtree(folder)
    return [
        ProbeResult(f"{level} {runtime.name}: {result.wall}", result.held, result.detail, result.remedy)
        for result in found
    ]


def _make_folder(state_dir: Path) -> Path:
    state_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="probe-", dir=state_dir.resolve()))
    folder.chmod(0o755)
    return folder
