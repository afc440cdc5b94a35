"""CPU seconds and memory of a process tree, as the kernel counts them in proc(5)."""

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
    """One line of /proc/PID/stat.

    `cpu_ticks` includes reaped children, so the sum of a tree does not shrink when one of them
    ends.
    """

    pid: int
    parent: int
    state: str
    cpu_ticks: int
    started_ticks: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of some processes.

    `exact` is false if a process refused its PSS (another user's, not dumpable). Its resident size,
    which is larger, then stands in.
    """

    bytes: int
    exact: bool


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none leaves the tree.

    See PR_SET_CHILD_SUBREAPER in prctl(2).

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def parse_stat(text: str) -> Process:
    """Parse one /proc/PID/stat.

    The command name may contain spaces and parentheses, hence the split at the last one
    (proc_pid_stat(5)).
    """
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
    """Return every process of the machine by pid, without those that end meanwhile."""
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
    """Return the pids below `root`, without it, parents before children."""
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
    """Return the CPU seconds, user and system, of these processes and of children they reaped."""
    return sum(processes[pid].cpu_ticks for pid in pids) / TICKS_PER_S


def memory(pids: Iterable[int]) -> Memory:
    """Return the proportional set size, which halves a page that two share (proc_pid_smaps(5))."""
    total_bytes, exact = 0, True
    for pid in pids:
        try:
            total_bytes += _pss_bytes(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended after the listing
        except PermissionError:
            exact = False
            total_bytes += _resident_bytes(pid)
    return Memory(total_bytes, exact)


def _pss_bytes(rollup: str) -> int:
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0  # a zombie or kernel thread has no memory and no such line


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0
