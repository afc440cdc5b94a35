"""A sandbox without namespaces: one process group under another uid, Landlock, a stricter filter. For hosts that refuse namespaces.

Knows: what must hold when there is no private view of the machine. Does not know: mounts, namespaces.
The kill is complete because nobody can leave the process group: setsid and setpgid are refused by the filter.
There is no PID 1: the one process waits, still trusted, for the bundle's path, because Landlock has to name it, and then puts up all walls.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Final

from . import lockdown, protocol, syscalls
from .isolation import capabilities
from .isolation.host_paths import is_open_to_others
from .isolation.rlimits import limit_blank, limit_process
from .protocol import Plan, read_limits

# Only what name resolution, time zones and TLS read; /etc as a whole tells about the host.
ETC: Final = (
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/nsswitch.conf",
)
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
LEAST_ABI_OTHER_UID: Final = 1
LEAST_ABI_OWN_UID: Final = 6
"""Under the worker's own uid only Landlock's signal scope keeps a function from signalling the worker."""


def require(plan: Plan, readable: list[str]) -> None:
    """Refuse this level where it would not be one.

    Raises:
        OSError: Landlock is missing or too old, or the other uid could not read the runtime.
    """
    abi = syscalls.landlock_abi()
    least = LEAST_ABI_OTHER_UID if plan.uid_base else LEAST_ABI_OWN_UID
    if abi < least:
        raise OSError(
            f"Landlock ABI {abi} is too old: this level needs {least} "
            + ("" if plan.uid_base else "under the worker's own uid, or root (to give functions another uid), ")
            + "and a kernel that enables it (lsm=landlock)"
        )
    for path in readable:
        if plan.uid_base and not is_open_to_others(path):
            raise OSError(
                f"functions run under uid {plan.uid_base} and up, which cannot reach {path}: install it where others may read"
            )


def run(
    plan: Plan,
    ini: int,
    uid: int,
    program: bytes,
    readable: list[str],
    home: str,
) -> None:
    """Be the sandbox; never returns.

    Args:
        ini: the socket to the zygote.
        uid: to change to; 0: stay who we are.
        readable: what the runtime needs; the bundle is added when it is known.
        home: the sandbox's own folder on a limited tmpfs, or "" if there is none to be had.
    """
    lockdown.reset_signals()
    zygote = socket.socket(fileno=ini)
    try:
        os.setsid()
        zygote, _order = lockdown.wait_for_go(zygote)
        if uid:
            if "capabilities" not in plan.missing:
                capabilities.lock()
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # setresuid clears it, so only now
        protocol.send(zygote, {"ready": {}})
        packet = protocol.receive(zygote)
        if packet is None:
            os._exit(0)
        order, _descriptors = packet
        _enter(plan, order, zygote, program, readable, home)
        lockdown.become_runtime(plan, zygote, [part.replace("{runtime}", plan.folder) for part in plan.command])
    except BaseException as error:  # noqa: BLE001 - nothing may escape into the zygote's own code, and all of it must be told
        lockdown.tell_failure(zygote, error)
    os._exit(71)


def _enter(
    plan: Plan, order: protocol.Message, zygote: socket.socket, program: bytes, readable: list[str], home: str
) -> None:
    bounds = read_limits(order["limits"])
    territory = lockdown.Permissions(
        readable=[*readable, *order["paths"]],
        writable=[home] if home else [],
        devices=[*DEVICES],
        connect_ports=[],
        seccomp=program,
    )
    if "rlimits" not in plan.missing:
        limit_blank(bounds)
        limit_process(0, bounds, plan.reserved_mib, counted=order["counted"])
    lockdown.prepare_environment(home or "/")
    facts = lockdown.lock_down(territory, plan, home or "/")
    protocol.send(zygote, {"attached": facts | {"home": bool(home)}, "at_s": time.monotonic()})


def kill_group(pid: int) -> None:
    """Everything in the group led by `pid`, which must be a child of ours not yet reaped."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)  # it was killed before it could lead a group


def reap_group(pid: int) -> None:
    """Wait until nothing of a killed group is left: as a subreaper we inherit every member in the end."""
    while True:
        try:
            os.waitid(os.P_PGID, pid, os.WEXITED)
        except ChildProcessError:
            return
