"""Resource limits: every rlimit there is, set to a number with a reason.

Knows: setrlimit(2) and prlimit(2). Does not know: cgroups, which bound the sandbox as a whole where they can be had.
"""

from __future__ import annotations

import math
import resource
from typing import Final

from ..protocol import Limits

MIB: Final = 1024 * 1024
CEILING_MIB: Final = 16384
"""Blanks start under this hard limit of data, because a hard limit can be lowered when the function is known but not raised."""
OPEN_FILES_CEILING: Final = 4096
PROCESSES_CEILING: Final = 4096


def limit_process(pid: int, limits: Limits, reserved_mib: int, *, memory_counted: bool) -> None:
    """Bind process `pid` (0: this one) to these limits; nothing above them can be regained.

    Args:
        reserved_mib: what the runtime reserves before the function allocates anything.
        counted: cgroups bound the sandbox as a whole; without them these limits, on each process, are all there is.
    """
    # Where a cgroup counts what is really used, reservations (thread stacks, V8's code ranges) are free up to the ceiling.
    data_mib = CEILING_MIB if memory_counted else limits.memory_limit_mib + reserved_mib
    for kind, value in {
        resource.RLIMIT_DATA: data_mib * MIB,
        # One more than the pids cgroup allows, so that the cgroup refuses first: it counts its refusals, this limit does not.
        resource.RLIMIT_NPROC: limits.processes + memory_counted,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.tmp_mib * MIB,
    }.items():
        _lower(pid, kind, value)
    if limits.cpu_limit_s is not None:
        seconds = math.ceil(limits.cpu_limit_s)
        resource.prlimit(
            pid, resource.RLIMIT_CPU, (seconds, seconds + 1)
        )  # SIGXCPU says why, SIGKILL a second later insists


def limit_prewarmed(limits: Limits) -> None:
    """What binds every sandbox whatever its policy, and ceilings for what a policy lowers later."""
    for kind, value in {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: MIB,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 256,  # also limits timers
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_RTTIME: 200_000,  # microseconds of real-time scheduling, which RTPRIO 0 refuses anyway
        resource.RLIMIT_STACK: 8 * MIB,
        10: 1024,  # RLIMIT_LOCKS, not named by Python; ignored since Linux 2.4.25
        resource.RLIMIT_DATA: CEILING_MIB * MIB,
        resource.RLIMIT_NOFILE: max(OPEN_FILES_CEILING, limits.open_files),
        resource.RLIMIT_NPROC: max(PROCESSES_CEILING, limits.processes),
    }.items():
        _lower(0, kind, value)


def _lower(pid: int, kind: int, value: int) -> None:
    """Set soft and hard to `value`, or to the present hard limit if that is lower still."""
    hard = resource.prlimit(pid, kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.prlimit(pid, kind, (value, value))
