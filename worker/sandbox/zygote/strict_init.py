"""Bring the loopback device of this network namespace up, without a tool: two ioctls (netdevice(7))."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
import struct
import time
from typing import Any, Final

from . import lockdown, protocol, syscalls
from .isolation import capabilities
from .isolation.rlimits import limit_prewarmed, limit_process
from .protocol import (
    BUNDLE_PATH,
    HOME_PATH,
    INSIDE_UID,
    PACKAGES_PATH,
    Limits,
    ZygoteConfig,
    inside_command,
    read_limits,
)

SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 1


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


NAMESPACES: Final = (
    syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
)
NAMESPACE_NAMES: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
TMP_INODES_PER_MIB: Final = 64
MOUNT_POINTS: Final = (BUNDLE_PATH, PACKAGES_PATH)
"""Where the folders that are handed over go, in their order."""
PROXY_PORT: Final = 3128
_PROXY_URL: Final = f"http://127.0.0.1:{PROXY_PORT}"
PROXY_ENVIRONMENT: Final = {
    **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), _PROXY_URL),
    "NODE_USE_ENV_PROXY": "1",  # Node 24 and up: `fetch` looks at the other variables only then
}


def namespace_ids(*, children: bool = False) -> dict[str, int]:
    """Inode numbers that tell this process's namespaces apart from another's."""
    renamed = {"pid": "pid_for_children", "time": "time_for_children"} if children else {}
    return {
        name: os.stat(f"/proc/self/ns/{renamed.get(name, name)}").st_ino
        for name in NAMESPACE_NAMES
        if os.path.exists(f"/proc/self/ns/{name}")
    }


def run_init(
    rootfs_dir: str, config: ZygoteConfig, init_socket: int, outside: dict[str, int], filters: dict[bool, bytes]
) -> None:
    """Be PID 1; never returns. Whatever goes wrong before PID 2 runs a function is sent to the zygote and ends the sandbox.

    Args:
        init_socket: the socket to the zygote.
        outside: the zygote's namespaces, to tell which ones are really new.
        filters: the compiled seccomp filters for PID 2, without and with a network.
    """
    lockdown.reset_signals()  # first: the zygote's wake-up descriptor has a number that is about to mean something else
    zygote = socket.socket(fileno=init_socket)
    try:
        zygote, order = lockdown.wait_for_start(zygote)
        limits = read_limits(order["limits"])
        facts = _enter_rootfs(rootfs_dir, config, limits, zygote, outside)
        permissions = lockdown.Permissions(
            readable=["/"],
            writable=[HOME_PATH],
            devices=["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"],
            connect_ports=[PROXY_PORT] if limits.network else [],
            seccomp=filters[limits.network],
        )
        _restrict_before_fork(config, limits)
        gate = os.eventfd(0, os.EFD_CLOEXEC)
        child = syscalls.fork()
        if child == 0:
            _run_runtime(config, zygote, permissions, facts, gate)
        _supervise(child, config, zygote, gate)
    except BaseException as error:  # noqa: BLE001 - nothing may escape into the zygote's own code, and all of it must be told
        lockdown.send_failure(zygote, error)
    os._exit(70)


def _enter_rootfs(
    rootfs_dir: str, config: ZygoteConfig, limits: Limits, zygote: socket.socket, outside: dict[str, int]
) -> dict[str, Any]:
    """Build the private root and move in."""
    if "cgroup" not in config.missing:
        syscalls.unshare(
            syscalls.CLONE_NEWCGROUP
        )  # only now that we are in our group: the namespace's root is where we are
    if "time" not in config.missing:
        _hide_uptime()
    facts: dict[str, Any] = {}
    inside = namespace_ids(children=True)
    facts["namespaces"] = [name for name, number in inside.items() if number != outside[name]]
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    _mount_tmp(rootfs_dir + HOME_PATH, limits.tmp_mib, 0)
    facts["proc"] = _mount_proc(f"{rootfs_dir}/proc")
    syscalls.mount(rootfs_dir, rootfs_dir, None, syscalls.MS_BIND | syscalls.MS_REC)
    os.chdir(rootfs_dir)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")
    syscalls.set_host_name(b"fn")
    if limits.network:
        protocol.send(zygote, {"proxy_socket": True}, (_listen_for_proxy(),))
    _drop_ids()
    return facts


def _restrict_before_fork(config: ZygoteConfig, limits: Limits) -> None:
    """What PID 2 inherits is done before it exists: done once, and the memory it touches is shared by both."""
    if "capabilities" not in config.missing:
        capabilities.lock()
    if "rlimits" not in config.missing:
        limit_prewarmed(limits)
    if limits.network:
        os.environ.update(PROXY_ENVIRONMENT)


def _mount_tmp(target: str, size_mib: int, flags: int) -> None:
    # Without nr_inodes a tmpfs took 200,000 empty files out of kernel memory that no size limit counts.
    options = f"size={size_mib}m,nr_inodes={size_mib * TMP_INODES_PER_MIB},mode=700,uid={INSIDE_UID},gid={INSIDE_UID}"
    syscalls.mount("tmp", target, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV | flags, options)


def _mount_proc(target: str) -> bool:
    """A /proc of our own PID namespace with nothing in it but processes; before pivoting, because the kernel wants to see the old one."""
    try:
        syscalls.mount(
            "proc", target, "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC, "subset=pid,hidepid=2"
        )
    except OSError:
        # "Mount too revealing": a container masks parts of its own /proc. An empty /proc is a stronger wall, and runtimes do without.
        return False
    return True


def _hide_uptime() -> None:
    """A time namespace for PID 2 whose monotonic clocks start near zero: the host's uptime is nobody's business."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWTIME)
        for clock, number in ((b"monotonic", time.CLOCK_MONOTONIC), (b"boottime", time.CLOCK_BOOTTIME)):
            syscalls.write_file("/proc/self/timens_offsets", b"%b %d 0\n" % (clock, -int(time.clock_gettime(number))))
    except OSError:
        return  # a kernel built without CONFIG_TIME_NS; nothing else depends on it, and the receipt does not list it


def _listen_for_proxy() -> int:
    """Bring the loopback device up and listen on it: the worker's proxy will accept in this sandbox's network."""
    bring_loopback_up()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", PROXY_PORT))
    listener.listen(64)
    return listener.detach()


def _drop_ids() -> None:
    try:
        os.setgroups([])
    except PermissionError:
        # An unprivileged zygote had to give up setgroups to map its gid (user_namespaces(7)); the groups it has are mapped to nobody.
        os.getgroups()
    os.setresgid(INSIDE_UID, INSIDE_UID, INSIDE_UID)
    os.setresuid(INSIDE_UID, INSIDE_UID, INSIDE_UID)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # setresuid clears it, so only now
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _run_runtime(
    config: ZygoteConfig, zygote: socket.socket, permissions: lockdown.Permissions, facts: dict[str, Any], gate: int
) -> None:
    """Be PID 2; never returns."""
    try:
        os.setsid()
        syscalls.prctl(
            syscalls.PR_SET_DUMPABLE, 1
        )  # until the descent is over: /proc/self has to be ours to write oom_score_adj
        facts |= lockdown.lock_down(permissions, config, HOME_PATH)
        protocol.send(zygote, {"ready": facts})
        lockdown.become_runtime(config, zygote, inside_command(config) if config.command else [], gate)
    except BaseException as error:  # noqa: BLE001 - a wall that does not stand ends the process before any function
        lockdown.send_failure(zygote, error)
    os._exit(71)


def _supervise(child: int, config: ZygoteConfig, zygote: socket.socket, gate: int) -> None:
    """Hand over the bundle when it is known, then only wait: reap orphans, and say how PID 2 ended.

    Args:
        gate: an eventfd(2) that lets PID 2 pass once the bundle is there and the limits hold.
    """
    for fd in range(lockdown.FIRST_FREE_FD):
        os.close(fd)
    child_fd = os.pidfd_open(child)
    watched = select.poll()
    watched.register(zygote, select.POLLIN)
    watched.register(child_fd, select.POLLIN)
    ended = False
    while not ended:
        for fd, _event in watched.poll():
            if fd == child_fd:
                ended = True
            elif not _attach(child, config, zygote, gate):
                os._exit(0)
            else:
                watched.unregister(zygote)
                capabilities.drop_all()
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == child:
            _send_exit(zygote, status, usage)
            os._exit(0)


def _attach(child: int, config: ZygoteConfig, zygote: socket.socket, gate: int) -> bool:
    """Take the detached mounts of bundle and packages to their places and PID 2's limits down to the policy's; False when the zygote is gone."""
    packet = protocol.receive(zygote)
    if packet is None:
        return False
    message, trees = packet
    limits = read_limits(message["limits"])
    for tree, place in zip(trees, MOUNT_POINTS, strict=False):
        syscalls.move_mount(tree, place)
        os.close(tree)
    if message["tmp_changed"]:
        _mount_tmp(HOME_PATH, limits.tmp_mib, syscalls.MS_REMOUNT)
    limit_process(child, limits, config.reserved_mib, memory_counted=message["memory_counted"])
    attached_s = time.monotonic()  # the machine's: a new time namespace is for children
    os.eventfd_write(gate, 1)
    os.close(gate)
    protocol.send(zygote, {"attached": {}, "at_s": attached_s})
    return True


def _send_exit(zygote: socket.socket, status: int, usage: resource.struct_rusage) -> None:
    try:
        protocol.send(zygote, {"ended": status, "peak_kib": usage.ru_maxrss})
    except OSError:
        return  # the zygote is gone, and with it whoever would have listened
