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
from .isolation.rlimits import limit_prewarmed, limit_process
from .protocol import ZygoteConfig, read_limits

# Only what name resolution, time zones and TLS read; /etc as a whole tells about the host.
ETC: Final = (
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/nsswitch.conf",
)
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
MIN_ABI_OTHER_UID: Final = 1
MIN_ABI_OWN_UID: Final = 6
"""Under the worker's own uid only Landlock's signal scope keeps a function from signalling the worker."""


def check_support(config: ZygoteConfig, readable: list[str]) -> None:
    """Refuse this level where it would not be one.

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
        uid: to change to; 0: stay who we are.
        readable: what the runtime needs; the bundle is added when it is known.
        home: the sandbox's own folder on a limited tmpfs, or "" if there is none to be had.
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
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # setresuid clears it, so only now
        protocol.send(zygote, {"ready": {}})
        packet = protocol.receive(zygote)
        if packet is None:
            os._exit(0)
        order, _descriptors = packet
        _lock_down(config, order, zygote, seccomp_filter, readable, home)
        lockdown.become_runtime(config, zygote, [part.replace("{runtime}", config.folder) for part in config.command])
    except BaseException as error:  # noqa: BLE001 - nothing may escape into the zygote's own code, and all of it must be told
        lockdown.send_failure(zygote, error)
    os._exit(71)


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
