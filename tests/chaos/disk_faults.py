"""Faults of the disk under Valkey: it fills up, or loses power."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Final

from tests.chaos.disks import CuttableDisk, SmallDisk
from tests.chaos.scene import Scene
from tests.waiting import eventually

SECONDS_PER_CUT: Final = 2.5
RESTART_S: Final = 0.5
"""How long a supervisor waits before it starts a Valkey again that has ended."""


async def fill_disk(scene: Scene) -> None:
    """Fill the disk, so that nothing can be appended.

    With `appendfsync always` Valkey exits at once, each time it is started; then space is freed.
    """
    rig = scene.rig
    disk = rig.disk
    assert isinstance(disk, SmallDisk)
    await scene.pause(1.0, 2.0)
    await scene.observer.unfinished()
    disk.fill()
    ends_s = time.monotonic() + scene.length_s
    while time.monotonic() < ends_s:
        await asyncio.sleep(RESTART_S)
        _start_again(scene)
    if not scene.history.refused["queue_unavailable"]:
        scene.history.broke.append("with a full disk no request was refused")
    affected = scene.history.ids - scene.history.records.keys()
    disk.free()
    _start_again(scene)
    freed_s = time.monotonic()
    await rig.valkey_answers()
    scene.struck("the disk has room", affected, ago_s=time.monotonic() - freed_s)


def _start_again(scene: Scene) -> None:
    """Restart Valkey if it has exited, as a supervisor does."""
    valkey = scene.rig.valkey
    assert valkey is not None
    if valkey.ended:
        valkey.expected_to_end = True
        scene.rig.spawn_valkey()


async def cut_power(scene: Scene) -> None:
    """Cut the power of the machine under Valkey.

    Writes that were not fsynced are lost, and Valkey with them. The journal is replayed, and Valkey
    starts again.
    """
    rig = scene.rig
    disk = rig.disk
    assert isinstance(disk, CuttableDisk)
    for _ in range(max(1, round(scene.length_s / SECONDS_PER_CUT))):
        await scene.pause(0.8, 1.6)
        if scene.dice.random() < 0.3:
            await rig.redis.bgrewriteaof()
            await scene.pause(0.0, 0.05)
        valkey = rig.valkey
        assert valkey is not None
        # Valkey must not see its disk fail: a machine without power runs no further instruction.
        valkey.signal(signal.SIGSTOP)
        await valkey.stands_still()
        disk.cut(valkey.pid)
        affected = scene.history.ids - scene.history.records.keys()
        await valkey.kill()
        await eventually(lambda: not disk.in_use, reason=lambda: "the disk is still mounted")
        started_s = time.monotonic()
        await rig.start_valkey()
        scene.struck("power is back", affected, ago_s=time.monotonic() - started_s)
