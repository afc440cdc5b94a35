"""The tools of a fault (`Scene`), and the description of a plan (`Plan`)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.caller import Callers
from tests.chaos.disks import DiskKind
from tests.chaos.history import History, Strike
from tests.chaos.observer import Observer
from tests.chaos.rig import Rig


@dataclass(slots=True)
class Scene:
    """The tools of a fault. `length_s` is its approximate duration."""

    rig: Rig
    history: History
    observer: Observer
    callers: Callers
    dice: random.Random
    length_s: float

    def struck(self, what: str, affected: set[str], *, ago_s: float = 0.0) -> Strike:
        """Record that the fault was applied, or undone, and return its entry.

        Recovery is measured from now, or from `ago_s` ago. Jobs hit later are added to the entry.
        """
        strike = Strike(what, (time.time() - ago_s) * 1000, affected)
        self.history.strikes.append(strike)
        return strike

    async def pause(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.dice.uniform(least_s, most_s))


Act = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A fault and its requirements.

    Of the jobs it hits, 99 of 100 run again within `bound_s` of the moment that `measured_from`
    names.
    """

    name: str
    act: Act
    length_s: float
    bound_s: float | None = None
    measured_from: str = "fault"
    workers: int = 2
    hosts: int = 0
    through_proxy: bool = False
    api_processes: int = 1
    wrong_clocks: tuple[str, ...] = ()
    """By how many seconds the clocks of the API and then of each worker are off."""
    may_repeat: bool = True
    """False if no job may need a second attempt: no process dies, and finished work only waits."""
    with_keys: bool = True
    """True if callers send idempotency keys; without, only the platform itself retries."""
    may_spend: bool = True
    """True if a job may end with fewer attempts left than a job that runs once."""
    must_lose: bool = False
    """A plan that shows that the fault is one: with less than what is promised there is loss."""
    installation: Path | None = None
    """Where the Sandlot under test is installed; by default it is this tree."""
    disk: DiskKind = ""
    fsync: str = "always"
    rate_hz: float = 30.0
    work_s: tuple[float, float] = (0.02, 0.2)
