"""cgroup v2: one tree, delegated to the worker (cgroups(7)).

It is delegated by systemd's Delegate=, by a container with writable cgroups, or by being root. A
group that gives its children controllers may not have processes of its own ("no internal
processes"), so those of the worker's group move to a leaf beside the sandboxes' groups first.
"""

from __future__ import annotations

import os
from typing import Any, Final

from ..protocol import Limits
from .cgroup import CPU_PERIOD_US, MIB, own_groups, own_name, read, read_field, remove_stale, remove_tree, write

LEAF: Final = "sandlot-processes"
NEEDED: Final = frozenset({"memory", "pids"})
WANTED: Final = ("memory", "pids", "cpu")


# Process: zygote, all functions of this module.
class CgroupsV2:
    """One group per sandbox, made and removed with it.

    A new group's counters start at zero; memory.peak cannot be reset before Linux 6.12.
    """

    counts_memory = True

    def __init__(self, folder: str, controllers: frozenset[str]) -> None:
        self._folder = folder
        self._controllers = controllers

    def describe(self) -> dict[str, Any]:
        return {
            "memory": "cgroup v2",
            "processes": "cgroup v2",
            "cpu": "cgroup v2" if "cpu" in self._controllers else "none",
        }

    # memory.oom.group: the OOM killer kills all processes of the group, or none. Those with an
    # oom_score_adj of -1000 would be spared; none here has it. Without swap.max a function would go
    # on in swap, far beyond its limit.
    def prepare(self, slot: int, limits: Limits) -> None:
        folder = f"{self._folder}/{slot}"
        os.makedirs(folder, exist_ok=True)
        write(f"{folder}/memory.oom.group", "1")
        if os.path.exists(f"{folder}/memory.swap.max"):
            write(f"{folder}/memory.swap.max", "0")
        self.limit(slot, limits)

    def join_fds(self, slot: int) -> tuple[int, ...]:
        return ()

    # Moving a process needs write access to cgroup.procs of the target and of the common ancestor
    # (cgroups(7), "delegation containment").
    def join(self, slot: int, pid: int) -> None:
        write(f"{self._folder}/{slot}/cgroup.procs", str(pid))

    def limit(self, slot: int, limits: Limits) -> None:
        folder = f"{self._folder}/{slot}"
        write(f"{folder}/memory.max", str(limits.memory_limit_mib * MIB))
        write(f"{folder}/pids.max", str(limits.processes))
        if "cpu" in self._controllers:
            write(f"{folder}/cpu.max", f"{int(limits.cpus * CPU_PERIOD_US)} {CPU_PERIOD_US}")

    # memory.events, oom_kill: processes of this group killed by any OOM killer. pids.events, max:
    # forks refused by the limit.
    def leave(self, slot: int) -> dict[str, Any]:
        folder = f"{self._folder}/{slot}"
        if not os.path.isdir(folder):
            return {}
        counted: dict[str, Any] = {
            "oom_killed": read_field(f"{folder}/memory.events", "oom_kill") > 0,
            "process_limit_hits": read_field(f"{folder}/pids.events", "max"),
            "cpu_ms": read_field(f"{folder}/cpu.stat", "usage_usec") / 1000,
        }
        if os.path.exists(f"{folder}/memory.peak"):  # since Linux 5.19
            counted["peak_bytes"] = int(read(f"{folder}/memory.peak"))
        remove_tree(folder)
        return counted

    # cgroup.kill, since Linux 5.14: SIGKILL to every process of the tree.
    def close(self) -> None:
        if os.path.exists(f"{self._folder}/cgroup.kill"):
            write(f"{self._folder}/cgroup.kill", "1")
        remove_tree(self._folder)


def open_cgroups_v2() -> CgroupsV2 | None:
    """Make a group below the zygote's own; None if memory and pids are not delegated."""
    parent = own_groups().get("")
    if parent is None:
        return None
    if os.path.basename(parent) == LEAF:  # another zygote of this worker has moved this one
        parent = os.path.dirname(parent)
    try:
        if not set(read(f"{parent}/cgroup.controllers").split()) >= NEEDED:
            return None
        _enable_controllers(parent)
        remove_stale(parent)
        folder = f"{parent}/{own_name()}"
        os.makedirs(folder, exist_ok=True)
        controllers = frozenset(read(f"{folder}/cgroup.controllers").split())
        _enable(folder, controllers)
    except OSError:
        return None  # not delegated: rlimits must suffice, and the receipt says so
    return CgroupsV2(folder, controllers)


def _enable_controllers(parent: str) -> None:
    """Give the children of `parent` its controllers, after moving its processes to a leaf."""
    if set(read(f"{parent}/cgroup.subtree_control").split()) >= NEEDED:
        return
    os.makedirs(f"{parent}/{LEAF}", exist_ok=True)
    for pid in read(f"{parent}/cgroup.procs").split():
        try:
            write(f"{parent}/{LEAF}/cgroup.procs", pid)
        except ProcessLookupError:
            continue  # it ended meanwhile
    _enable(parent, frozenset(read(f"{parent}/cgroup.controllers").split()))


def _enable(folder: str, controllers: frozenset[str]) -> None:
    write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in WANTED if name in controllers))
