"""A script is executed, and whoever sent it never hears so.

Knows: how each script is made to be sent. Does not know: what is judged.
"""

from __future__ import annotations

import asyncio
import signal
import time

from sandlot.jobs.lua import script
from tests.faults.scene import Act, Scene


def lose_replies(name: str, *, of_api: bool) -> Act:
    async def act(scene: Scene) -> None:
        proxy = scene.rig.to_api if of_api else scene.rig.to_workers
        marker = script(name).sha.encode()
        ends_s = time.monotonic() + scene.length_s
        times = 0
        while time.monotonic() < ends_s or (not proxy.swallowed and time.monotonic() < ends_s + 10):
            await scene.pause(0.2, 0.5)
            if name == "release":
                await _make_a_worker_release(scene, marker)
            elif name == "cancel":
                await _cancel_one(scene, marker)
            else:
                proxy.lose(marker)
            times += 1
        proxy.lose(b"", 0)
        if not proxy.swallowed:
            scene.history.broke.append(f"no reply of {name} was swallowed in {times} tries: the fault did not happen")

    act.__doc__ = f"Redis executes {name}; whoever sent it loses the connection instead of hearing so."
    return act


async def _make_a_worker_release(scene: Scene, marker: bytes) -> None:
    """Twice SIGTERM makes a worker give back what it runs."""
    victim = scene.dice.choice(scene.rig.living())
    await scene.rig.start_worker(through_proxy=True)
    for _ in range(4):
        scene.callers.call(sync=False, work_s=1.5)
    await asyncio.sleep(0.3)
    scene.rig.to_workers.lose(marker)
    affected = await scene.rig.held_by(victim)
    victim.signal(signal.SIGTERM)
    await asyncio.sleep(0.1)
    scene.struck(f"{victim.name} gives back", affected)
    status = await victim.stop()
    if status != 0:
        scene.history.broke.append(f"{victim.name} ended with {status} after two SIGTERMs: {victim.tail()}")


async def _cancel_one(scene: Scene, marker: bytes) -> None:
    """The cancellation's own answer may be 202, or 409 if the job has ended, or if its first try had."""
    job_ids = sorted(await scene.observer.unfinished())
    if job_ids:
        scene.rig.to_api.lose(marker)
        await scene.callers.cancel(scene.dice.choice(job_ids))
