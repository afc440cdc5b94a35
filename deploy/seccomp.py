"""Generate deploy/worker-seccomp.json, the seccomp profile of a worker's container.

    python deploy/seccomp.py > deploy/worker-seccomp.json

The default profiles of container engines refuse the system calls that build a strict sandbox
(unshare, mount, pivot_root, open_tree, ...) unless the container has CAP_SYS_ADMIN. A container
with that capability is nearly root of the host. This profile lets an ordinary user without
capabilities make these calls; the kernel then allows them only inside a user namespace of that
user.

The profile is derived from the sandbox's own filter, plus the calls of launcher and worker. A test
compares the file with this output, so that a change of the filter cannot be forgotten here.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worker.sandbox.zygote.isolation.seccomp import (
    ALLOW,
    AUDIT_ARCHITECTURE,
    ERRNO,
    FilterChoice,
    build_filter,
    interpret,
    syscall_numbers,
)

MACHINES: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}

LAUNCHER: Final = (
    "unshare", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr", "sethostname",  # the private root
    "setgroups", "setresuid", "setresgid", "capset",  # dropping privileges
    "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",  # isolation layers of a process
)  # fmt: skip
ENGINE: Final = ("setuid", "setgid", "setfsuid", "setfsgid")
"""Engines that cannot set no-new-privileges load the filter first and change the user later."""

FAMILIES: Final = (
    1,
    2,
    10,
    16,
)  # AF_UNIX; AF_INET and AF_INET6 to Redis; AF_NETLINK, with which the C library lists addresses
PERSONALITIES: Final = (0, 0xFFFFFFFF)  # PER_LINUX, and the query for the current one
# These get ENOSYS by name: engines that ignore `defaultErrnoRet` would return EPERM, which C
# libraries take as final. clone3 has its flags behind a pointer, where no filter can see them.
# io_uring does file and socket work that no filter sees.
UNKNOWN: Final = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")


def profile() -> dict[str, Any]:
    """Return the profile in the format that Docker, Podman and Kubernetes share."""
    allowed = _allowed_inside() | {*LAUNCHER, *ENGINE}
    refused = _refused_inside() - allowed
    checked = {"socket", "personality"}
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        # No sub-architectures: 32-bit and x32 calls kill the process, as in a sandbox.
        "archMap": [{"architecture": name, "subArchitectures": []} for name in MACHINES.values()],
        "syscalls": [
            _rule(allowed - checked, "SCMP_ACT_ALLOW", "calls of functions, launcher and worker"),
            *(_rule(["socket"], "SCMP_ACT_ALLOW", "local, TCP/IP, netlink", argument=(0, family)) for family in FAMILIES),
            *(_rule(["personality"], "SCMP_ACT_ALLOW", "only the default one", argument=(0, kind)) for kind in PERSONALITIES),
            _rule(refused - checked, "SCMP_ACT_ERRNO", "refused by name", error=errno.EPERM),
            _rule(UNKNOWN, "SCMP_ACT_ERRNO", "answered as by a kernel without them", error=errno.ENOSYS),
        ],
    }  # fmt: skip


def _answers() -> Iterable[tuple[str, int]]:
    """Yield each system call of each machine with the answer of the sandbox's widest filter.

    The filter is asked with the arguments of `PLAINEST`, or with none.
    """
    for machine in MACHINES:
        program = build_filter(FilterChoice(network=True, shared_memory=True), machine)
        for name, number in syscall_numbers(machine).items():
            yield name, interpret(program, number, AUDIT_ARCHITECTURE[machine], PLAINEST.get(name, ()))


PLAINEST: Final[Mapping[str, tuple[int, ...]]] = {"socket": (1, 1, 0), "socketpair": (1, 1, 0)}


def _allowed_inside() -> set[str]:
    return {name for name, answer in _answers() if answer == ALLOW}


def _refused_inside() -> set[str]:
    return {name for name, answer in _answers() if answer == ERRNO | errno.EPERM}


def _rule(
    names: Iterable[str],
    action: str,
    comment: str,
    *,
    argument: tuple[int, int] | None = None,
    error: int | None = None,
) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": sorted(names), "action": action, "comment": comment}
    if argument is not None:
        rule["args"] = [{"index": argument[0], "value": argument[1], "op": "SCMP_CMP_EQ"}]
    if error is not None:
        rule["errnoRet"] = error
    return rule


if __name__ == "__main__":
    print(json.dumps(profile(), indent=1))
