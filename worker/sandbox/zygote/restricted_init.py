"""A sandbox without namespaces: one process group, another uid if the worker is root, and Landlock.

For hosts that refuse namespaces. A kill is complete because no process can leave the process group:
the filter refuses setsid(2) and setpgid(2). There is one process instead of init and runtime: it
waits, still trusted, for the bundle's path, which Landlock has to name, and then locks itself down.
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
from .isolation.rlimits import limit_prewarmed, limit_process
from .protocol import ZygoteConfig, read_limits

# Read by name resolution and user lookups; /etc as a whole would tell about the host.
ETC: Final = (
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/nsswitch.conf",
)
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
MIN_ABI_OTHER_UID: Final = 1
MIN_ABI_OWN_UID: Final = 6
"""Under the worker's own uid only Landlock's signal scope keeps a function from signalling the
worker."""


# Process: zygote, once.
def check_support(config: ZygoteConfig, readable: list[str]) -> None:
    """Refuse this level where it would not isolate.

    Raises:
        OSError: Landlock is missing or too old, or the other uid could not read the runtime.
    """
    abi = syscalls.landlock_abi()
    least = MIN_ABI_OTHER_UID if config.uid_base else MIN_ABI_OWN_UID
    if abi < least:
        raise OSError(
            f"Landlock ABI {abi} is too old: this level needs {least} "
            + ("" if config.uid_base else "under the worker's own uid, or root (to give functions another uid), ")
            + "and a kernel that enables it (lsm=landlock)"
        )
    for path in readable:
        if config.uid_base and not is_open_to_others(path):
            raise OSError(
                f"functions run under uid {config.uid_base} and up, which cannot reach {path}: install it where others may read"
            )


# Process: the only one of a restricted sandbox. setsid(2) makes it the leader of a new process
# group, which a kill addresses. setgroups(2), setresgid(2) and setresuid(2) need CAP_SETGID and
# CAP_SETUID, and stand in this order, since the last one may end them. A change of uid clears the
# parent-death signal (prctl(2)), so it is set afterwards.
#
# 71 reports an exit after a failure message.
def run(
    config: ZygoteConfig,
    init_socket: int,
    uid: int,
    seccomp_filter: bytes,
    readable: list[str],
    home: str,
) -> None:
    """Be the sandbox; never returns.

    Args:
        init_socket: the socket to the zygote.
        uid: the uid to change to; 0 to keep the zygote's.
        readable: the paths that the runtime needs; the bundle's is added when it is known.
        home: the sandbox's own folder on a limited tmpfs, or "" if it has none.
    """
    lockdown.reset_signals()
    zygote = socket.socket(fileno=init_socket)
    try:
        os.setsid()
        zygote, _order = lockdown.wait_for_start(zygote)
        if uid:
            if "capabilities" not in config.missing:
                capabilities.lock()
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        protocol.send(zygote, {"ready": {}})
        packet = protocol.receive(zygote)
        if packet is None:
            os._exit(0)
        order, _descriptors = packet
        _lock_down(config, order, zygote, seccomp_filter, readable, home)
        lockdown.become_runtime(config, zygote, [part.replace("{runtime}", config.folder) for part in config.command])
    except BaseException as error:  # noqa: BLE001 - no exception may escape into the zygote's code, and each has to be reported
        lockdown.send_failure(zygote, error)
    os._exit(71)


# Process: the only one, about to be the runtime. limit_process takes pid 0, which is this process:
# the filter, loaded later, refuses prlimit(2) on any other.
def _lock_down(
    config: ZygoteConfig,
    order: protocol.Message,
    zygote: socket.socket,
    seccomp_filter: bytes,
    readable: list[str],
    home: str,
) -> None:
    limits = read_limits(order["limits"])
    permissions = lockdown.Permissions(
        readable=[*readable, *order["paths"]],
        writable=[home] if home else [],
        devices=[*DEVICES],
        connect_ports=[],
        seccomp=seccomp_filter,
    )
    if "rlimits" not in config.missing:
        limit_prewarmed(limits)
        limit_process(0, limits, config.reserved_mib, memory_counted=order["memory_counted"])
    lockdown.prepare_environment(home or "/")
    facts = lockdown.lock_down(permissions, config, home or "/")
    protocol.send(zygote, {"attached": facts | {"home": bool(home)}, "at_s": time.monotonic()})


# Process: zygote. kill(2): a negative pid addresses the group. The leader has not been reaped, so
# the group's number cannot have been given to another group.
def kill_group(pid: int) -> None:
    """Kill the process group led by `pid`, a child of this process that was not reaped yet."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)  # it was killed before its setsid(2)


# Process: zygote. As a subreaper it inherits every member of the group, at the latest when the
# member's parent has died; waitid(2) answers ECHILD when none is left.
def reap_group(pid: int) -> None:
    """Wait until no process of a killed group is left."""
    while True:
        try:
            os.waitid(os.P_PGID, pid, os.WEXITED)
        except ChildProcessError:
            return
