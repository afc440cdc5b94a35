"""Write deploy/worker-seccomp.json: what a worker's container may ask of the kernel, so that strict sandboxes can be built in it.

    python deploy/seccomp.py > deploy/worker-seccomp.json

An engine's own profile refuses what a sandbox is made of (unshare, mount, pivot_root, open_tree, ...) unless the container has
CAP_SYS_ADMIN, and a container with that is nearly root of the host. This one lets an ordinary user without capabilities call them; the
kernel then allows them only inside a user namespace of that user.

Knows: the sandbox's own filter (what functions may call), and what launcher and worker call beyond that. Does not know: engines' profiles.
Derived, not written by hand: a test compares the file with what this prints, so a change of the sandbox's filter cannot be forgotten here.
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
    "setgroups", "setresuid", "setresgid", "capset",  # becoming nobody
    "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",  # the walls a process puts around itself
)  # fmt: skip
ENGINE: Final = ("setuid", "setgid", "setfsuid", "setfsgid")
"""Engines that cannot set no-new-privileges first load the filter before they change the user."""

FAMILIES: Final = (
    1,
    2,
    10,
    16,
)  # AF_UNIX; AF_INET and AF_INET6 to Redis; AF_NETLINK, by which the C library lists addresses
PERSONALITIES: Final = (0, 0xFFFFFFFF)  # the ordinary one, and the question which one it is
# Answered "no such call" by name: engines that ignore `defaultErrnoRet` would say EPERM, which C libraries take as final.
# clone3: its flags are behind a pointer where no filter sees them. io_uring: does file and socket work past every filter.
UNKNOWN: Final = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")


def profile() -> dict[str, Any]:
    """The profile in the format that Docker, Podman and Kubernetes share."""
    allowed = _allowed_inside() | {*LAUNCHER, *ENGINE}
    refused = _refused_inside() - allowed
    checked = {"socket", "personality"}
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        # No sub-architectures: 32-bit and x32 calls, which a function may not make either, end the process.
        "archMap": [{"architecture": name, "subArchitectures": []} for name in MACHINES.values()],
        "syscalls": [
            _rule(allowed - checked, "SCMP_ACT_ALLOW", "what functions, launcher and worker call"),
            *(_rule(["socket"], "SCMP_ACT_ALLOW", "local, TCP/IP, netlink", argument=(0, family)) for family in FAMILIES),
            *(_rule(["personality"], "SCMP_ACT_ALLOW", "none but the ordinary", argument=(0, kind)) for kind in PERSONALITIES),
            _rule(refused - checked, "SCMP_ACT_ERRNO", "refused by name", error=errno.EPERM),
            _rule(UNKNOWN, "SCMP_ACT_ERRNO", "answered as by a kernel that has none", error=errno.ENOSYS),
        ],
    }  # fmt: skip


def _answers() -> Iterable[tuple[str, int]]:
    """Each system call of each machine with the answer of the sandbox's widest filter to its plainest arguments."""
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
