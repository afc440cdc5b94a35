"""Faults of Valkey: killed, frozen, paused, full, away for long."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Final

from tests.chaos.scene import Scene

SERVING_S: Final = 2.0
"""The promise: from the end of a Valkey that is restarted at once to the next reply."""


async def restart_valkey(
    scene: Scene, *, every_s: tuple[float, float] = (1.5, 3.0), away_s: tuple[float, float] = (0.2, 1.0)
) -> None:
    """SIGKILL, and after a while the same data again, from the append-only file."""
    ends_s = time.monotonic() + scene.length_s
    while time.monotonic() < ends_s:
        await scene.pause(*every_s)
        valkey = scene.rig.valkey
        assert valkey is not None
        affected = await scene.observer.unfinished()
        await valkey.kill()
        await scene.pause(*away_s)
        affected |= scene.history.ids - scene.history.records.keys()
        await _bring_back(scene, affected)


async def _bring_back(scene: Scene, affected: set[str]) -> None:
    """Recovery counts from its start: reading the file is part of it."""
    started_s = time.monotonic()
    await scene.rig.start_valkey()
    scene.struck("Valkey is back", affected, ago_s=time.monotonic() - started_s)


async def restart_valkey_every_8_s(scene: Scene) -> None:
    """SIGKILL Valkey every eight seconds and restart it at once.

    A call at that moment gets its reply within two seconds of the restart.
    """
    ends_s = time.monotonic() + scene.length_s
    while time.monotonic() < ends_s:
        await asyncio.sleep(8)
        valkey = scene.rig.valkey
        assert valkey is not None
        await valkey.kill()
        affected = scene.history.ids - scene.history.records.keys()
        killed_s = time.monotonic()
        scene.rig.spawn_valkey()
        answered = scene.callers.call(sync=True, work_s=0.0)
        await scene.rig.valkey_answers()
        scene.struck("Valkey is back", affected, ago_s=time.monotonic() - killed_s)
        await answered
        if (took_s := time.monotonic() - killed_s) > SERVING_S:
            scene.history.broke.append(f"serving only {took_s:.2f} s after Valkey was killed")


async def lose_valkey(scene: Scene) -> None:
    """Away for long: longer than any lease, any patience of a call, any back-off."""
    await scene.pause(1.5, 2.0)
    valkey = scene.rig.valkey
    assert valkey is not None
    await scene.observer.unfinished()
    await valkey.kill()
    await asyncio.sleep(scene.length_s)
    affected = scene.history.ids - scene.history.records.keys()
    await _bring_back(scene, affected)


async def freeze_valkey(scene: Scene) -> None:
    """SIGSTOP Valkey until every lease has expired; it accepts connections and answers nothing."""
    await scene.pause(1.0, 2.0)
    valkey = scene.rig.valkey
    assert valkey is not None
    affected = await scene.observer.unfinished()
    valkey.signal(signal.SIGSTOP)
    await asyncio.sleep(scene.length_s)
    valkey.signal(signal.SIGCONT)
    scene.struck("Valkey goes on", affected)


async def pause_valkey(scene: Scene) -> None:
    """CLIENT PAUSE: commands wait and are executed later, long after their senders gave up."""
    await scene.pause(1.0, 2.0)
    affected = await scene.observer.unfinished()
    await scene.rig.redis.execute_command("CLIENT", "PAUSE", int(scene.length_s * 1000), "ALL")
    await asyncio.sleep(scene.length_s)
    await scene.rig.valkey_answers()
    scene.struck("Valkey goes on", affected)


async def fill_valkey(scene: Scene) -> None:
    """At maxmemory: new work is refused, what was accepted is finished and recorded."""
    client = scene.rig.redis
    await scene.pause(1.0, 2.0)
    affected = await scene.observer.unfinished()
    used = int((await client.info("memory"))["used_memory"])
    await client.config_set("maxmemory", used - 1)
    scene.struck("Valkey is full", affected)
    await asyncio.sleep(scene.length_s)
    stuck = await scene.observer.unfinished()
    if not scene.history.refused["queue_unavailable"]:
        scene.history.broke.append("a full Valkey refused no request")
    if stuck:
        scene.history.broke.append(f"{len(stuck)} accepted jobs were not finished while Valkey was full")
    await client.config_set("maxmemory", 0)
