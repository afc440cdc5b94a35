"""What is written to cgroup v2 files, told from a folder that looks like them: its controllers are not to be had on every machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.sandbox.zygote.isolation import cgroup_v2
from worker.sandbox.zygote.isolation.cgroup_v2 import CgroupsV2, open_cgroups_v2
from worker.sandbox.zygote.protocol import Limits

BOUNDS = Limits(memory_limit_mib=64, processes=10, cpu_limit_s=None, open_files=99, tmp_mib=8, network=False, cpus=0.5)
FILES = ("memory.oom.group", "memory.swap.max", "memory.max", "pids.max", "cpu.max", "cgroup.procs")


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    folder = tmp_path / "0"
    folder.mkdir()
    for name in FILES:
        (folder / name).touch()
    return folder


def test_limits_are_written(tmp_path: Path, slot: Path) -> None:
    groups = CgroupsV2(str(tmp_path), frozenset({"memory", "pids", "cpu"}))
    groups.prepare(0, BOUNDS)
    groups.join(0, 4711)
    assert {name: (slot / name).read_text() for name in FILES} == {
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "memory.max": str(64 << 20),
        "pids.max": "10",
        "cpu.max": "50000 100000",
        "cgroup.procs": "4711",
    }


def test_counters_are_read(tmp_path: Path, slot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(cgroup_v2, "remove_tree", removed.append)
    (slot / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n")
    (slot / "pids.events").write_text("max 3\n")
    (slot / "cpu.stat").write_text("usage_usec 12500\nuser_usec 10000\n")
    (slot / "memory.peak").write_text("12345\n")
    counted = CgroupsV2(str(tmp_path), frozenset({"memory", "pids"})).leave(0)
    assert counted == {"oom_killed": True, "process_limit_hits": 3, "cpu_ms": 12.5, "peak_bytes": 12345}
    assert removed == [str(slot)]


def test_a_cgroup_that_is_not_delegated_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_v2, "own_groups", lambda: {"": str(tmp_path)})
    (tmp_path / "cgroup.controllers").write_text("cpu io")
    assert open_cgroups_v2() is None
    monkeypatch.setattr(cgroup_v2, "own_groups", dict)
    assert open_cgroups_v2() is None
