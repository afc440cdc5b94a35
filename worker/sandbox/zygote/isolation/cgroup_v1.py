"""cgroup v1: one hierarchy per controller, as older hosts and hybrid ones have (cgroups(7)).

Groups are kept and used again: a removed v1 memory group stays in the kernel until its last page is
freed.
"""

from __future__ import annotations

import os
from typing import Any, Final

from ..protocol import Limits
from .cgroup import CPU_PERIOD_US, MIB, own_groups, own_name, read, read_field, remove_stale, remove_tree, write

CONTROLLERS: Final = ("memory", "pids", "cpu", "cpuacct")


# Process: zygote, all functions of this module.
class CgroupsV1:
    """Groups in as many of the hierarchies as can be written to, memory and pids at least."""

    counts_memory = True

    def __init__(self, parents: dict[str, str]) -> None:
        self._parents = parents
        self._folders = dict.fromkeys(parents.values())  # in order, once each: cpu and cpuacct are often one hierarchy
        self._applied: dict[int, Limits] = {}
        self._join_fds: dict[int, tuple[int, ...]] = {}
        self._seen: dict[int, tuple[int, int]] = {}

    def describe(self) -> dict[str, Any]:
        return {
            "memory": "cgroup v1",
            "processes": "cgroup v1",
            "cpu": "cgroup v1" if "cpu" in self._parents else "none",
        }

    # Init writes to `tasks` itself. The kernel checks the credentials that opened the file (since
    # Linux 5.17), the zygote's.
    def prepare(self, slot: int, limits: Limits) -> None:
        if slot not in self._applied:
            for folder in self._folders:
                os.makedirs(f"{folder}/{slot}", exist_ok=True)
            self._join_fds[slot] = tuple(
                os.open(f"{folder}/{slot}/tasks", os.O_WRONLY | os.O_CLOEXEC) for folder in self._folders
            )
            self._seen[slot] = (0, 0)
        self.limit(slot, limits)

    def join_fds(self, slot: int) -> tuple[int, ...]:
        return self._join_fds[slot]

    def join(self, slot: int, pid: int) -> None:
        return

    def limit(self, slot: int, limits: Limits) -> None:
        applied = self._applied.get(slot)
        if applied is None or applied.memory_limit_mib != limits.memory_limit_mib:
            self._limit_memory(self._path("memory", slot), limits.memory_limit_mib * MIB)
        if applied is None or applied.processes != limits.processes:
            write(self._path("pids", slot) + "/pids.max", str(limits.processes))
        if "cpu" in self._parents and (applied is None or applied.cpus != limits.cpus):
            write(self._path("cpu", slot) + "/cpu.cfs_quota_us", str(int(limits.cpus * CPU_PERIOD_US)))
        self._applied[slot] = limits

    # memory.memsw.limit_in_bytes bounds memory and swap together, so equal limits mean no swap.
    def _limit_memory(self, folder: str, limit_bytes: int) -> None:
        swap = f"{folder}/memory.memsw.limit_in_bytes"  # missing where the kernel does not account for swap
        if os.path.exists(swap):
            write(swap, "-1")  # it may never be below the memory limit, so it is lifted first
        write(f"{folder}/memory.limit_in_bytes", str(limit_bytes))
        if os.path.exists(swap):
            write(swap, str(limit_bytes))

    # The group is used again: counters that can be reset are, for the others the difference counts.
    # oom_kill in memory.oom_control exists since Linux 4.13.
    def leave(self, slot: int) -> dict[str, Any]:
        if slot not in self._applied:
            return {}
        memory, pids = self._path("memory", slot), self._path("pids", slot)
        kills, refusals = (
            read_field(f"{memory}/memory.oom_control", "oom_kill"),
            read_field(f"{pids}/pids.events", "max"),
        )
        killed_before, refused_before = self._seen[slot]
        self._seen[slot] = (kills, refusals)
        counted: dict[str, Any] = {
            "peak_bytes": int(read(f"{memory}/memory.max_usage_in_bytes")),
            "oom_killed": kills > killed_before,
            "process_limit_hits": refusals - refused_before,
        }
        write(f"{memory}/memory.max_usage_in_bytes", "0")
        if "cpuacct" in self._parents:
            counted["cpu_ms"] = int(read(self._path("cpuacct", slot) + "/cpuacct.usage")) / 1e6
            write(self._path("cpuacct", slot) + "/cpuacct.usage", "0")
        return counted

    def close(self) -> None:
        for fd in (fd for fds in self._join_fds.values() for fd in fds):
            os.close(fd)
        for folder in self._folders:
            remove_tree(folder)

    def _path(self, controller: str, slot: int) -> str:
        return f"{self._parents[controller]}/{slot}"


def open_cgroups_v1() -> CgroupsV1 | None:
    """Make groups below the zygote's own; None if memory or pids cannot be limited."""
    found: dict[str, str] = {}
    groups = own_groups()
    for controller in CONTROLLERS:
        if controller not in groups:
            continue
        parent = groups[controller]
        folder = f"{parent}/{own_name()}"
        try:
            remove_stale(parent)
            os.makedirs(folder, exist_ok=True)
            write(f"{folder}/cgroup.procs", "")
        except OSError:
            continue  # not writable: another mechanism has to bound this
        found[controller] = folder
    if "memory" in found and "pids" in found:
        return CgroupsV1(found)
    for folder in found.values():
        remove_tree(folder)
    return None
