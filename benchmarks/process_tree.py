"""What a tree of processes costs: CPU seconds and memory, as the kernel counts them.

Knows: /proc (proc(5)). Does not know: which servers, what they serve.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat. `cpu_ticks` includes the children it has reaped, so a tree's sum does not shrink when one of them ends."""

    pid: int
    parent: int
    state: str
    cpu_ticks: int
    started_ticks: int


@dataclass(frozen=True, slots=True)
class Memory:
    """`exact` is false if a process refused its PSS (another user's, not dumpable): its resident size, which is larger, stands in."""

    bytes: int
    exact: bool


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none can leave the tree (prctl(2), PR_SET_CHILD_SUBREAPER).

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def parse_stat(text: str) -> Process:
    """One /proc/PID/stat. The command name may hold spaces and parentheses, hence the split at the last one (proc_pid_stat(5))."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(
        pid=int(head.partition(" ")[0]),
        parent=int(fields[1]),
        state=fields[0],
        cpu_ticks=sum(int(field) for field in fields[11:15]),
        started_ticks=int(fields[19]),
    )


def snapshot() -> dict[int, Process]:
    """Every process of the machine, by pid; those that end while we read are left out."""
    found: dict[int, Process] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                process = parse_stat(Path("/proc", entry, "stat").read_text(encoding="utf-8", errors="replace"))
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[process.pid] = process
    return found


def descendants(processes: Mapping[int, Process], root: int) -> list[int]:
    """The pids below `root`, without it, parents before children."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: list[int] = []
    frontier = [root]
    while frontier:
        frontier = [child for parent in frontier for child in children.get(parent, [])]
        found.extend(frontier)
    return found


def cpu_s(processes: Mapping[int, Process], pids: Iterable[int]) -> float:
    """CPU seconds these processes and all children they have reaped have used, user and system."""
    return sum(processes[pid].cpu_ticks for pid in pids) / TICKS_PER_S


def memory(pids: Iterable[int]) -> Memory:
    """Proportional set size of these processes: pages shared by two count half in each (proc_pid_smaps(5))."""
    total_bytes, exact = 0, True
    for pid in pids:
        try:
            total_bytes += _pss_bytes(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between the listing and now
        except PermissionError:
            exact = False
            total_bytes += _resident_bytes(pid)
    return Memory(total_bytes, exact)


def _pss_bytes(rollup: str) -> int:
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0  # a zombie or a kernel thread has no memory and no such line


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0
