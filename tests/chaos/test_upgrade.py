"""An upgrade as docs/upgrades.md describes it: two versions side by side on the same data."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.chaos import installations
from tests.chaos.history import History, Judgement
from tests.chaos.run import run_plan
from tests.chaos.scene import Plan, Scene
from tests.chaos.upgrade_faults import expect_no_refusals, renew_api, replace_workers

pytestmark = pytest.mark.skipif(bool(installations.why_no_uv()), reason=installations.why_no_uv())

OLD, NEW = "0.0.9", "0.9.0"
LOAD_HZ = 40.0


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This code, installed."""
    folder = tmp_path_factory.mktemp("new")
    return installations.install(installations.this_tree(folder), NEW, folder)


async def upgraded(
    folder: Path, current: Path, upgrade: Callable[[Scene], Awaitable[None]], api_processes: int = 1
) -> tuple[History, Judgement]:
    """Under load, with the version that `current` means at the start."""
    (folder / "run").mkdir()
    plan = Plan(
        "two versions", upgrade, 10, api_processes=api_processes, rate_hz=LOAD_HZ, work_s=(0.005, 0.05), installation=current
    )  # fmt: skip
    history, judgement = await run_plan(plan, 1, folder / "run")
    assert judgement.offences == [], f"refused: {history.refused}; logs: {folder}"
    assert judgement.acknowledged == history.requests > 0
    assert (judgement.repeated, judgement.spent) == (0, 0)
    return history, judgement


async def test_no_call_is_lost_refused_or_run_twice_during_an_upgrade(new: Path, tmp_path: Path) -> None:
    """Move the link to the new version, replace workers one by one, and SIGHUP the API.

    The API's new processes are of the new version.
    """
    old = installations.install(installations.this_tree(tmp_path), OLD, tmp_path)
    current = tmp_path / "sandlot"
    installations.link(old, current)

    async def upgrade(scene: Scene) -> None:
        rig = scene.rig
        assert rig.api is not None
        installations.link(new, current)
        await replace_workers(scene, rig.living()[:1])
        await renew_api(scene)
        await replace_workers(scene, rig.living()[:1])
        expect_no_refusals(scene)
        apis = [event["version"] for event in rig.api.events("listening")]
        workers = [worker.events("worker started")[0]["version"] for worker in rig.workers]
        assert (apis, workers) == ([OLD, OLD, NEW, NEW], [OLD, OLD, NEW, NEW])

    await upgraded(tmp_path, current, upgrade, api_processes=2)


@pytest.mark.skipif("SANDLOT_TEST_UPGRADES" not in os.environ, reason="half a minute more: make test-upgrades")
@pytest.mark.skipif(bool(installations.why_no_history()), reason=installations.why_no_history())
async def test_nothing_is_lost_or_run_twice_when_code_of_another_date_is_replaced(new: Path, tmp_path: Path) -> None:
    """Upgrade from really different code.

    First its workers run under its API, then under this tree's, as the changelog says, then beside
    this tree's workers. The old API is restarted, and its callers retry meanwhile.
    """
    old = installations.install(installations.released_tree(tmp_path), OLD, tmp_path)
    current = tmp_path / "sandlot"
    installations.link(old, current)

    async def upgrade(scene: Scene) -> None:
        rig = scene.rig
        assert rig.api is not None
        installations.link(new, current)
        await rig.api.stop()
        await rig.start_api()
        await scene.pause(1, 1)
        await replace_workers(scene, rig.living()[:1])
        await scene.pause(1, 1)
        await replace_workers(scene, rig.living()[:1])
        assert [worker.events("worker started")[0].get("version") for worker in rig.workers] == [None, None, NEW, NEW]

    await upgraded(tmp_path, current, upgrade)
