"""Faults of hosts: unplugged, firewalled, killed."""

from __future__ import annotations

import asyncio
import time

from tests.chaos.history import Strike
from tests.chaos.parts import Part
from tests.chaos.scene import Scene


async def _lose_host(scene: Scene, cut: str, heal: str) -> None:
    rig = scene.rig
    ends_s = time.monotonic() + scene.length_s
    while time.monotonic() < ends_s:
        await scene.pause(0.5, 1.0)
        index = scene.dice.randrange(len(rig.hosts))
        affected = await rig.held_by(rig.workers[index])
        getattr(rig.hosts[index], cut)()
        strike = scene.struck(f"{cut} {rig.hosts[index].name}", affected)
        for _ in range(35):
            await scene.pause(0.2, 0.26)
            strike.affected |= await rig.held_by(rig.workers[index])
        getattr(rig.hosts[index], heal)()
        await scene.pause(2.0, 3.0)


async def unplug_host(scene: Scene) -> None:
    """The cable is out, then in again: both sides go on."""
    await _lose_host(scene, "unplug", "plug")


async def drop_host(scene: Scene) -> None:
    """Drop a host's outgoing packets only, so that hand-offs reach a worker that cannot answer."""
    await _lose_host(scene, "drop", "open_firewall")


async def reject_host(scene: Scene) -> None:
    """Its packets are answered with a reset, at once and for every new connection."""
    await _lose_host(scene, "reject", "open_firewall")


async def cut_worker(scene: Scene) -> None:
    """Silence the proxy between workers and Redis for a while; needs no namespace."""
    await scene.pause(0.5, 1.0)
    affected = await scene.observer.unfinished()
    scene.rig.to_workers.cut()
    await scene.pause(scene.length_s - 0.5, scene.length_s)
    affected |= await scene.observer.unfinished()
    scene.rig.to_workers.heal()
    scene.struck("healed the workers' connection", affected)


async def kill_hosts(scene: Scene) -> None:
    """Remove a host with all its processes every two seconds, and put another in its place.

    None of its connections is ever closed.
    """
    rig = scene.rig
    ends_s = time.monotonic() + scene.length_s
    on: dict[int, Part] = dict(enumerate(rig.workers))
    dead: list[tuple[Part, Strike]] = []
    index = -1
    while time.monotonic() < ends_s:
        index = scene.dice.choice([number for number in on if number != index])
        host, victim = rig.hosts[index], on[index]
        affected = await rig.held_by(victim)
        host.unplug()
        dead.append((victim, scene.struck(f"killed {host.name}", affected)))
        await victim.kill()
        # A new machine gets the old address: the dead kernel never sends its queued packets.
        host.remove()
        host.make()
        on[index] = rig.spawn_worker(host)
        for _ in range(8):
            await asyncio.sleep(0.25)
            for victim, strike in dead[-3:]:
                strike.affected |= await rig.held_by(victim)
    for worker in on.values():
        await worker.said("worker started", 60)
