"""Faults of workers: killed, asked to stop, frozen, or dying at a failpoint."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Final

from tests.chaos.engines import Engines
from tests.chaos.scene import Scene

WINDOWS: Final = ("handed", "claimed", "started", "ran", "kept", "settling", "settled", "beaten", "reaping")
TERMINATED_AT_ONCE: Final = 8
TERMINATIONS_PER_S: Final = 10


async def kill_workers(scene: Scene, *, supervised: bool = True) -> None:
    """SIGKILL one worker after another; each end is reported, and the worker replaced."""
    ends_s = time.monotonic() + scene.length_s
    while time.monotonic() < ends_s:
        await scene.pause(0.5, 1.5)
        victim = scene.dice.choice(scene.rig.living())
        affected = await scene.rig.held_by(victim)
        await victim.kill()
        scene.struck(f"killed {victim.name}", affected)
        if supervised:
            await scene.rig.report_end(victim)
        await scene.rig.start_worker()


async def kill_workers_unseen(scene: Scene) -> None:
    """SIGKILL workers without a report: the other workers have to notice."""
    await kill_workers(scene, supervised=False)


async def roll_workers(scene: Scene) -> None:
    """SIGTERM each worker in turn, its replacement first: a deployment under load.

    A drained worker exits with 0.
    """
    ends_s = time.monotonic() + scene.length_s
    while time.monotonic() < ends_s:
        await scene.pause(0.2, 0.6)
        victim = scene.dice.choice(scene.rig.living())
        await scene.rig.start_worker()
        affected = await scene.rig.held_by(victim)
        scene.struck(f"asked {victim.name} to stop", affected)
        status = await victim.stop()
        if status != 0:
            scene.history.broke.append(f"{victim.name} ended with {status} after SIGTERM: {victim.tail()}")


async def terminate_workers(scene: Scene) -> None:
    """SIGTERM engines in their first second: eight at a time, ten a second, a quarter twice."""
    engines = Engines(scene.rig)
    turns = iter(range(round(scene.length_s * TERMINATIONS_PER_S)))

    async def one_after_the_other() -> None:
        for _ in turns:
            victim = await engines.start()
            await scene.pause(0.05, 0.5)
            victim.expected_to_end = True
            victim.signal(signal.SIGTERM)
            if scene.dice.random() < 0.25:
                await scene.pause(0.0, 0.05)
                victim.signal(signal.SIGTERM)
            status = await victim.gone()
            if status != 0:
                scene.history.broke.append(f"{victim.name} ended with {status} after SIGTERM: {victim.tail()}")

    async with asyncio.TaskGroup() as group:
        for _ in range(TERMINATED_AT_ONCE):
            group.create_task(one_after_the_other())


async def freeze_worker(scene: Scene) -> None:
    """SIGSTOP a worker beyond its lease, then SIGCONT: its attempts belong to others by then."""
    ends_s = time.monotonic() + scene.length_s
    while time.monotonic() < ends_s:
        await scene.pause(0.5, 1.0)
        victim = scene.dice.choice(scene.rig.living())
        affected = await scene.rig.held_by(victim)
        victim.signal(signal.SIGSTOP)
        strike = scene.struck(f"froze {victim.name}", affected)
        for _ in range(30):
            await scene.pause(0.2, 0.23)
            strike.affected |= await scene.rig.held_by(victim)
        victim.signal(signal.SIGCONT)


async def die_in_windows(scene: Scene) -> None:
    """Let a worker kill itself in each window between claim and record, at a random turn."""
    for window in WINDOWS:
        fault = f"{window}:kill@{scene.dice.randint(1, 4)}"
        victim = await scene.rig.start_worker(fault=fault)
        victim.expected_to_end = True
        others = [worker for worker in scene.rig.living() if worker is not victim]
        # With the other gone every job comes to this one, and every point is reached.
        rest = scene.dice.choice(others)
        held = await scene.rig.held_by(rest)
        await rest.kill()
        scene.struck(f"killed {rest.name}", held)
        await scene.rig.report_end(rest)
        await victim.gone(20)
        scene.struck(f"{victim.name} died at {fault}", await scene.rig.held_by(victim))
        await scene.rig.report_end(victim)
        await scene.rig.start_worker()
