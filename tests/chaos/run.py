"""Run one plan from its start to its judgement.

Knows: the order of things. Does not know: any fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.chaos import clocks, disks, hosts
from tests.chaos.caller import Callers
from tests.chaos.disks import Disk, DiskKind, disk
from tests.chaos.history import History, Judgement, judge
from tests.chaos.hosts import Host, cables
from tests.chaos.observer import Observer
from tests.chaos.rig import VALKEY_FOLDER, open_rig
from tests.chaos.scene import Plan, Scene

HANG_S: Final = 240.0
"""Beyond its own length no plan takes this long."""


@functools.cache
def _no_hosts() -> str:
    return hosts.why_not()


@functools.cache
def _no_disk(kind: DiskKind) -> str:
    return disks.why_not(kind)


def why_not(plan: Plan) -> str:
    """Why this plan cannot be run on this machine; empty if it can."""
    return (_no_hosts() if plan.hosts else "") or (clocks.why_not() if plan.wrong_clocks else "") or _no_disk(plan.disk)


async def run_plan(
    plan: Plan, seed: int, folder: Path, *, length_s: float | None = None, rate_hz: float | None = None
) -> tuple[History, Judgement]:
    """
    Raises:
        TimeoutError: something hangs.
        AssertionError: the platform did not start, or answered what it does not document.
    """
    dice = random.Random(f"{plan.name} {seed}")  # noqa: S311  # a plan, not a secret
    length_s = plan.length_s if length_s is None else length_s
    with _hosts(plan.hosts) as some, disk(plan.disk, folder / VALKEY_FOLDER) as mounted:
        async with asyncio.timeout(length_s + HANG_S):
            return await _run(plan, dice, folder, some, mounted, length_s, rate_hz or plan.rate_hz)


async def _run(
    plan: Plan,
    dice: random.Random,
    folder: Path,
    on: Sequence[Host],
    mounted: Disk | None,
    length_s: float,
    rate_hz: float,
) -> tuple[History, Judgement]:
    history = History()
    async with open_rig(
        folder,
        workers=plan.workers,
        hosts=on,
        through_proxy=plan.through_proxy,
        api_processes=plan.api_processes,
        wrong_clocks=plan.wrong_clocks,
        disk=mounted,
        fsync=plan.fsync,
        installation=plan.installation,
    ) as rig:
        observer = Observer(rig, history)
        callers = Callers(rig, history, dice, rate_hz=rate_hz, work_s=plan.work_s, with_keys=plan.with_keys)
        try:
            observer.start()
            callers.start()
            await plan.act(Scene(rig, history, observer, callers, dice, length_s))
            await callers.finish()
            await observer.settle()
            await observer.conclude()
        finally:
            await callers.close()
            await observer.stop()
    return history, judge(history)


@contextlib.contextmanager
def _hosts(count: int) -> Iterator[Sequence[Host]]:
    if not count:
        yield ()
        return
    with cables(count) as some:
        yield some
