"""Receipts are true, and a host with a broken wall does not open."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sandlot.errors import SandboxUnavailable
from tests.sandbox.level_rig import open_level, runtime_commands
from tests.waiting import HANG_S
from worker.sandbox.selftest.trial import Trial
from worker.sandbox.selftest.verify import attack, describe_failures, probe
from worker.sandbox.spec import Level
from worker.sandbox.zygote_client import ZygoteClient

BROKEN = {
    ("strict", "seccomp"): "seccomp",
    ("strict", "capabilities"): "capabilities",
    ("strict", "rlimits"): "limits",
    ("strict", "cgroup"): "namespaces",
    ("restricted", "seccomp"): "seccomp",
    ("restricted", "landlock"): "landlock",
    ("restricted", "rlimits"): "limits",
}


@pytest.mark.slow
@pytest.mark.parametrize(("level", "wall", "named"), [(*key, named) for key, named in BROKEN.items()])
async def test_a_missing_layer_keeps_the_host_closed(level: str, wall: str, named: str) -> None:
    with pytest.raises(SandboxUnavailable, match=rf"\b{named} does not hold"):
        async with open_level(level, missing=(wall,)):
            pass


@pytest.mark.slow
@pytest.mark.parametrize(("level", "wall", "named"), [(*key, named) for key, named in BROKEN.items()])
async def test_doctor_names_the_missing_layer(level: Level, wall: str, named: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - the sandbox's user is another one
        results = await probe(level=level, runtimes=runtime_commands(), state_dir=Path(folder), missing=(wall,))
    broken = [result for result in results if not result.held]
    assert f"{level} python: {named}" in [result.feature for result in broken]
    assert all(result.remedy for result in broken)


START = """
import asyncio
from tests.sandbox.level_rig import open_level

async def main():
    async with open_level("strict"):
        pass

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, and setpriv")
def test_a_level_that_does_not_even_start_names_the_remedy() -> None:
    """As in Docker without our profile, which refuses the first `unshare`: here for want of a capability."""
    words = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", START]
    environment = {**os.environ, "container": "docker", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.stderr.splitlines()[-1].startswith("sandlot.errors.SandboxUnavailable: "), done.stderr
    assert "unshare" in done.stderr.splitlines()[-1]
    assert "deploy/worker-seccomp.json" in done.stderr.splitlines()[-1]


@pytest.mark.slow
async def test_auto_gives_both_reasons_when_no_level_holds() -> None:
    with pytest.raises(SandboxUnavailable, match=r"nothing will be run.*strict.*restricted"):
        async with open_level("auto", missing=("seccomp",)):
            pass


@pytest.mark.slow
async def test_auto_falls_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with open_level("auto", missing=("cgroup",)) as host:
        assert host.level == "restricted"
    assert "sandbox_restricted" in caplog.text


@pytest.mark.slow
async def test_the_strict_receipt_lists_what_holds() -> None:
    async with open_level("strict") as host:
        sandbox = await host.prewarm("python")
        receipt = json.loads(sandbox.receipt)
        sandbox.close()
    assert receipt["level"] == "strict"
    assert receipt["namespaces"][:7] == ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"]
    assert (receipt["capabilities"], receipt["no_new_privs"], receipt["seccomp"], receipt["securebits"]) == (
        "0x0",
        True,
        True,
        0xEF,
    )
    assert receipt["network"] == "none"


@pytest.mark.slow
@pytest.mark.parametrize("without", ["time", "landlock", "cgroups"])
async def test_the_receipt_changes_with_an_optional_layer(without: str) -> None:
    async with open_level("strict") as host, open_level("strict", missing=(without,)) as weaker:
        receipts = []
        for each in (host, weaker):
            sandbox = await each.prewarm("python")
            receipts.append(json.loads(sandbox.receipt))
            sandbox.close()
    key = {"time": "namespaces", "landlock": "landlock_abi", "cgroups": "memory"}[without]
    if receipts[0][key] in (0, "rlimit"):
        pytest.skip(f"this machine has no {without}")
    assert receipts[0][key] != receipts[1][key]


@pytest.mark.slow
async def test_an_attack_that_cannot_run_counts_as_a_layer_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first prototype took an erring self-test for a pass."""

    async def erring(_sandbox: object, _event: object, **_options: object) -> Trial:
        raise SandboxUnavailable("the attack could not be made")

    async with open_level("strict") as host:
        link: ZygoteClient = host.zygote_client("python")
        monkeypatch.setattr("worker.sandbox.selftest.verify.try_in", erring)
        results = await attack(link)
        await asyncio.sleep(0)
    assert describe_failures(results).startswith("start does not hold")
