"""A few of the faults, shortened: `make faults` runs all of them at full length.

No check depends on duration: each tests whether a job was lost, doubled or changed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.plans import PLANS
from tests.chaos.run import run_plan, why_not
from tests.chaos.scene import Plan

SHORT_S = {
    "worker killed, unseen": 1.5,
    "Valkey killed": 2.0,
    "reply lost: settle_and_claim": 1.5,
    "worker frozen 6 s": 1.0,
    "host drops": 1.0,
    "500 SIGTERMs": 1.0,
}
SEED = 1


@pytest.mark.parametrize("name", SHORT_S)
async def test_acknowledged_jobs_are_never_lost_doubled_or_changed(name: str, tmp_path: Path) -> None:
    plan = _plan(name)
    if reason := why_not(plan):
        pytest.skip(reason)
    history, judgement = await run_plan(plan, SEED, tmp_path, length_s=SHORT_S[name])
    assert judgement.offences == [], f"refused: {history.refused}; logs: {tmp_path}"
    assert judgement.acknowledged == history.requests > 0
    assert judgement.repeated == 0 or plan.may_repeat


def _plan(name: str) -> Plan:
    return next(plan for plan in PLANS if plan.name == name)
