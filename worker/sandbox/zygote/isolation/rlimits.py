"""Resource limits: every rlimit there is, set to a number with a reason.

An rlimit binds one process (RLIMIT_NPROC: one uid). Limits on a sandbox as a whole are those of
cgroups, where the host permits them.
"""

from __future__ import annotations

import math
import resource
from typing import Final

from ..protocol import Limits

MIB: Final = 1024 * 1024
CEILING_MIB: Final = 16384
"""The hard data limit of a prewarmed sandbox. When the function is known a hard limit can be
lowered, not raised."""
OPEN_FILES_CEILING: Final = 4096
PROCESSES_CEILING: Final = 4096


# Process: init, on the runtime's pid (strict); the only process, on itself (restricted). prlimit(2)
# on another process needs CAP_SYS_RESOURCE in its user namespace, or that its real, effective and
# saved ids all equal the caller's real ones, as those of init and the runtime do. Limits above the
# present hard one would need CAP_SYS_RESOURCE in the *initial* user namespace, which nothing in a
# sandbox has.
#
# The runtime gets its function only afterwards, so the limits hold before the function runs.
def limit_process(pid: int, limits: Limits, reserved_mib: int, *, memory_counted: bool) -> None:
    """Bind process `pid` (0: this one) to these limits; it cannot raise any of them again.

    Args:
        reserved_mib: address space that the runtime reserves before the function allocates any.
        memory_counted: cgroups bound the sandbox as a whole; without them these limits, on each
            process, are all there is.
    """
    # Where a cgroup counts the memory in use, reservations (thread stacks, V8's code ranges) are
    # free up to the ceiling.
    data_mib = CEILING_MIB if memory_counted else limits.memory_limit_mib + reserved_mib
    for kind, value in {
        # Private writable mappings since Linux 4.7 (getrlimit(2)); shared anonymous ones do not
        # count, so the seccomp filter refuses those where no cgroup counts them.
        resource.RLIMIT_DATA: data_mib * MIB,
        # Processes and threads of the uid, counted per user namespace since Linux 5.14. One more
        # than the pids cgroup allows, so that the cgroup refuses first: it counts its refusals,
        # this limit does not.
        resource.RLIMIT_NPROC: limits.processes + memory_counted,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.tmp_mib * MIB,
    }.items():
        _lower(pid, kind, value)
    if limits.cpu_limit_s is not None:
        seconds = math.ceil(limits.cpu_limit_s)
        # The soft limit sends SIGXCPU, which names the cause; the hard one SIGKILL a second later.
        resource.prlimit(pid, resource.RLIMIT_CPU, (seconds, seconds + 1))


# Process: init, before it forks the runtime, which inherits the limits (strict); the only process
# (restricted).
def limit_prewarmed(limits: Limits) -> None:
    """Set the limits of every sandbox, and ceilings for those that `limit_process` lowers."""
    for kind, value in {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: MIB,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 256,  # a POSIX timer counts as one, so this bounds timers too
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_RTTIME: 200_000,  # microseconds of real-time scheduling, which RTPRIO 0 refuses anyway
        resource.RLIMIT_STACK: 8 * MIB,
        10: 1024,  # RLIMIT_LOCKS, not named by Python; without effect since Linux 2.4.25 (getrlimit(2))
        resource.RLIMIT_DATA: CEILING_MIB * MIB,
        resource.RLIMIT_NOFILE: max(OPEN_FILES_CEILING, limits.open_files),
        resource.RLIMIT_NPROC: max(PROCESSES_CEILING, limits.processes),
    }.items():
        _lower(0, kind, value)


# prlimit(2): raising a hard limit fails with EPERM, so a lower one that the worker itself was given
# stays as it is.
def _lower(pid: int, kind: int, value: int) -> None:
    """Set soft and hard limit to `value`, or to the present hard limit if that is lower."""
    hard = resource.prlimit(pid, kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.prlimit(pid, kind, (value, value))
