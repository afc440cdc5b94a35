"""What happens to the disk under Valkey: it fills up, or its power is cut.

Knows: when, and which jobs that hits. Does not know: what is judged.
"""

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
    """Nothing more can be appended. With `always` Valkey gives up at once, and each time it is started again; then there is room."""
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
        scene.history.broke.append("with a full disk nobody was refused")
    affected = scene.history.ids - scene.history.records.keys()
    disk.free()
    _start_again(scene)
    freed_s = time.monotonic()
    await rig.valkey_answers()
    scene.struck("the disk has room", affected, ago_s=time.monotonic() - freed_s)


def _start_again(scene: Scene) -> None:
    """What a supervisor does."""
    valkey = scene.rig.valkey
    assert valkey is not None
    if valkey.ended:
        valkey.expected_to_end = True
        scene.rig.spawn_valkey()


async def cut_power(scene: Scene) -> None:
    """The machine under Valkey loses its power: what was not fsynced is gone, and so is Valkey. The journal is replayed, and it starts again."""
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
        # It must not see its disk fail: between the end of power and its own end there is no time.
        valkey.signal(signal.SIGSTOP)
        await valkey.stands_still()
        disk.cut(valkey.pid)
        affected = scene.history.ids - scene.history.records.keys()
        await valkey.kill()
        await eventually(lambda: not disk.in_use, reason=lambda: "the disk is still mounted")
        started_s = time.monotonic()
        await rig.start_valkey()
        scene.struck("power is back", affected, ago_s=time.monotonic() - started_s)
