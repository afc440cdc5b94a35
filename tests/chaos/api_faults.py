"""Faults of the API while callers wait."""

from __future__ import annotations

import time

from tests.chaos.scene import Scene


async def kill_api(scene: Scene) -> None:
    """SIGKILL the API with callers waiting.

    A new one takes the same port, and the callers repeat their requests with the same keys.
    """
    ends_s = time.monotonic() + scene.length_s
    while time.monotonic() < ends_s:
        for _ in range(6):
            scene.callers.call(sync=True, work_s=1.0)
        await scene.pause(0.4, 1.0)
        api = scene.rig.api
        assert api is not None
        affected = await scene.observer.unfinished()
        await api.kill()
        scene.struck("killed the API", affected)
        await scene.rig.start_api()


async def roll_api(scene: Scene) -> None:
    """SIGTERM with callers waiting: each is answered, with the result or with the job's id."""
    ends_s = time.monotonic() + scene.length_s
    while time.monotonic() < ends_s:
        for _ in range(6):
            scene.callers.call(sync=True, work_s=1.0)
        await scene.pause(0.4, 1.0)
        api = scene.rig.api
        assert api is not None
        scene.struck("asked the API to stop", await scene.observer.unfinished())
        status = await api.stop()
        if status != 0:
            scene.history.broke.append(f"{api.name} ended with {status} after SIGTERM: {api.tail()}")
        await scene.rig.start_api()
