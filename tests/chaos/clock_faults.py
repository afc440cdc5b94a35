"""Faults of clocks: no two machines agree on the time."""

from __future__ import annotations

import datetime
import email.utils
import time
from typing import Final

from tests.chaos.rig import FUNCTION
from tests.chaos.scene import Scene

LEAST_WRONG_S: Final = 500
BODY: Final = b'{"s": 0.1, "n": 0, "fails": false}'
HALF_A_MINUTE: Final = {"prefer": "respond-async", "x-sandlot-delay": "1s", "x-sandlot-expires": "30s"}


async def live_with_wrong_clocks(scene: Scene) -> None:
    """Run the API ten minutes behind, one worker ten minutes ahead and one behind; kill workers.

    Delays and expiries keep their lengths.
    """
    ends_s = time.monotonic() + scene.length_s
    while time.monotonic() < ends_s:
        scene.history.requests += 1
        answer = await scene.callers.ask("POST", f"/v1/functions/{FUNCTION}/invoke", BODY, HALF_A_MINUTE)
        ahead_s = email.utils.parsedate_to_datetime(answer.headers["date"]) - datetime.datetime.now(datetime.UTC)
        if abs(ahead_s.total_seconds()) < LEAST_WRONG_S:
            scene.history.broke.append(f"the API's clock is only {ahead_s} off: the fault did not happen")
        await scene.pause(0.5, 1.5)
        victim = scene.dice.choice(scene.rig.living())
        affected = await scene.rig.held_by(victim)
        await victim.kill()
        scene.struck(f"killed {victim.name}", affected)
        await scene.rig.start_worker(clock=scene.dice.choice(["+600", "-600"]))
        status = await _end_of(scene, str(answer.json()["id"]))
        if status != "succeeded":
            scene.history.broke.append(f"a job that had half a minute to begin ended as {status}")


async def _end_of(scene: Scene, job_id: str) -> str:
    answer = await scene.callers.ask("GET", f"/v1/jobs/{job_id}", headers={"prefer": "wait=30"})
    return str(answer.json()["status"])
