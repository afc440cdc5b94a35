"""What happens to hosts: unplugged, walled in, killed.

Knows: which host, when, and which jobs that hits. Does not know: what is judged.
"""

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
    """One way only: what the host sends is swallowed, what is sent to it arrives. Hand-offs reach a worker that cannot answer."""
    await _lose_host(scene, "drop", "open_firewall")


async def reject_host(scene: Scene) -> None:
    """Its packets are answered with a reset, at once and for every new connection."""
    await _lose_host(scene, "reject", "open_firewall")


async def cut_worker(scene: Scene) -> None:
    """A cut that needs no namespace: the proxy between the workers and Redis goes silent, then speaks again."""
    await scene.pause(0.5, 1.0)
    affected = await scene.observer.unfinished()
    scene.rig.to_workers.cut()
    await scene.pause(scene.length_s - 0.5, scene.length_s)
    affected |= await scene.observer.unfinished()
    scene.rig.to_workers.heal()
    scene.struck("healed the workers' connection", affected)


async def kill_hosts(scene: Scene) -> None:
    """Every two seconds a host vanishes with all that runs on it, and another takes its place. No connection of it is ever closed."""
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
        # A new machine with the old one's address: what the dead one's kernel had still to say is never sent.
        host.remove()
        host.make()
        on[index] = rig.spawn_worker(host)
        for _ in range(8):
            await asyncio.sleep(0.25)
            for victim, strike in dead[-3:]:
                strike.affected |= await rig.held_by(victim)
    for worker in on.values():
        await worker.said("worker started", 60)
