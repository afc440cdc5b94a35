"""Replacement of every process while callers call, as in an upgrade; no call may be refused."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Final

from tests.chaos.parts import Part
from tests.chaos.scene import Scene
from tests.waiting import eventually

RENEWAL_DEADLINE_S: Final = 60.0
HARMLESS: Final = "ClosedWhileIdle"
"""A kept connection that ended before it was used again.

A client opens another and repeats the request, as with any server (RFC 9112, 9.3.1).
"""


async def replace_everything(scene: Scene) -> None:
    """Replace workers (a new one, then SIGTERM for an old one) and SIGHUP the API, in turn.

    The API renews its processes one by one. No call is refused.
    """
    ends_s = time.monotonic() + scene.length_s
    while time.monotonic() < ends_s:
        await renew_api(scene)
        await scene.pause(0.1, 0.5)
        await replace_workers(scene, [scene.dice.choice(scene.rig.living())])
    expect_no_refusals(scene)


async def replace_workers(scene: Scene, victims: Sequence[Part]) -> None:
    """For each a new one, and when that works, SIGTERM."""
    for victim in victims:
        await scene.rig.start_worker()
        status = await victim.stop()
        if status != 0:
            scene.history.broke.append(f"{victim.name} ended with {status} after SIGTERM: {victim.tail()}")


def expect_no_refusals(scene: Scene) -> None:
    refused = {code: times for code, times in scene.history.refused.items() if code != HARMLESS}
    if refused:
        scene.history.broke.append(f"callers were refused while nothing was broken: {refused}")


async def renew_api(scene: Scene) -> None:
    api = scene.rig.api
    assert api is not None
    before = len(api.events("stopped"))
    for _ in range(4):
        scene.callers.call(sync=True, work_s=1.0)
    await scene.pause(0.1, 0.5)
    api.signal(signal.SIGHUP)
    await eventually(
        lambda: len(api.events("stopped")) >= before + 2,
        reason=lambda: f"the API's processes were not renewed: {api.tail()}",
    )
