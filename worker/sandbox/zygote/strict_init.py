"""Init of a strict sandbox: the first process inside, PID 1, from its start to its end.

It completes the private root, forks the runtime (PID 2), mounts the bundle when the function is
known, and from then on, without any privilege, waits for the runtime's end and reports it. It never
runs a user's code.
"""

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

NAMESPACES: Final = (
    syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
)
"""The flags of clone(2); the cgroup and time namespaces follow in `_enter_rootfs`."""
NAMESPACE_NAMES: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
TMP_INODES_PER_MIB: Final = 64
MOUNT_POINTS: Final = (BUNDLE_PATH, PACKAGES_PATH)
"""The mount points of the folders that the zygote sends, in their order."""
PROXY_PORT: Final = 3128
_PROXY_URL: Final = f"http://127.0.0.1:{PROXY_PORT}"
PROXY_ENVIRONMENT: Final = {
    **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), _PROXY_URL),
    "NODE_USE_ENV_PROXY": "1",  # Node 24 and up: without it `fetch` ignores the other variables
}

# netdevice(7): requests of ioctl(2) and a flag.
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 1


# Process: zygote, to know its own; init, to compare; zygote again, to warm up. namespaces(7): two
# processes are in one namespace if their links below /proc/pid/ns lead to one inode of one device.
# The *_for_children links differ from the plain ones after unshare(2) of CLONE_NEWPID or
# CLONE_NEWTIME, which concern the children only.
def namespace_ids(*, children: bool = False) -> dict[str, int]:
    """Return the inode numbers that tell this process's namespaces from another process's."""
    renamed = {"pid": "pid_for_children", "time": "time_for_children"} if children else {}
    return {
        name: os.stat(f"/proc/self/ns/{renamed.get(name, name)}").st_ino
        for name in NAMESPACE_NAMES
        if os.path.exists(f"/proc/self/ns/{name}")
    }


# Process: init. clone(2) with CLONE_NEWUSER gives it every capability in the new user namespace,
# which owns the other new namespaces (user_namespaces(7)). Its ids are unmapped until the zygote
# has written the maps, which is one of the reasons to wait.
#
# The fork server's Python stack lies below this frame; os._exit never returns into it. Both exit
# statuses, 70 and 71, report an exit after a failure message.
def run_init(
    rootfs_dir: str, config: ZygoteConfig, init_socket: int, outside: dict[str, int], filters: dict[bool, bytes]
) -> None:
    """Be PID 1; never returns.

    A failure before PID 2 runs a function is sent to the zygote and ends the sandbox.

    Args:
        init_socket: the socket to the zygote.
        outside: the zygote's namespaces, to tell which ones are really new.
        filters: the compiled seccomp filters for PID 2, without and with a network.
    """
    # First of all: the descriptor that a signal would write to has a number that is given to
    # another file below.
    lockdown.reset_signals()
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
    except BaseException as error:  # noqa: BLE001 - no exception may escape into the zygote's code, and each has to be reported
        lockdown.send_failure(zygote, error)
    os._exit(70)


# Process: init. The order matters:
#
# - cgroup_namespaces(7): the root of a new cgroup namespace is the group that the process is in, so
#   init joins its group first (wait_for_start);
# - mount_namespaces(7): the new namespace is a copy of the zygote's; private, so that no mount
#   event goes from one to the other;
# - /proc is mounted before the root changes: in a user namespace the kernel permits it only as long
#   as a /proc with nothing masked is visible (mount_too_revealing in fs/namespace.c);
# - pivot_root(2) requires a mount point as the new root, which the bind mount on itself makes;
# - pivot_root(".", ".") stacks the old root on the new one, so umount2(".", MNT_DETACH) removes the
#   old root and everything below it (pivot_root(2), NOTES). As a whole, since its single mounts are
#   locked together in a less privileged namespace (mount_namespaces(7));
# - mounts, sethostname(2) and the loopback device need capabilities, which init has until the
#   bundle is mounted.
def _enter_rootfs(
    rootfs_dir: str, config: ZygoteConfig, limits: Limits, zygote: socket.socket, outside: dict[str, int]
) -> dict[str, Any]:
    """Complete the private root, and move in.

    Returns:
        The first facts of the receipt: new namespaces, and whether there is a /proc.
    """
    if "cgroup" not in config.missing:
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)
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


# Process: init. unshare(CLONE_NEWTIME) puts later children into a new time namespace, not the
# caller. Its offsets can be written until the first process is in it, as "clock seconds
# nanoseconds" (time_namespaces(7)). Init itself keeps the machine's clocks, by which it times the
# mount.
def _hide_uptime() -> None:
    """Give the runtime monotonic clocks that start near zero, to hide the host's uptime."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWTIME)
        for clock, number in ((b"monotonic", time.CLOCK_MONOTONIC), (b"boottime", time.CLOCK_BOOTTIME)):
            syscalls.write_file("/proc/self/timens_offsets", b"%b %d 0\n" % (clock, -int(time.clock_gettime(number))))
    except OSError:
        # A kernel without CONFIG_TIME_NS; no other layer depends on it, and the receipt does not
        # list it.
        return


# Process: init. tmpfs(5): `size` counts data pages only. Without nr_inodes a tmpfs took 200,000
# empty files out of kernel memory that no size limit counts. uid and gid are numbers of this user
# namespace.
def _mount_tmp(target: str, size_mib: int, flags: int) -> None:
    options = f"size={size_mib}m,nr_inodes={size_mib * TMP_INODES_PER_MIB},mode=700,uid={INSIDE_UID},gid={INSIDE_UID}"
    syscalls.mount("tmp", target, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV | flags, options)


# Process: init. proc(5): subset=pid (since Linux 5.8) leaves nothing but processes, no /proc/sys
# and no /proc/kcore; hidepid=2 hides those of other users. It shows the PID namespace of the
# process that mounts it.
def _mount_proc(target: str) -> bool:
    """Mount a /proc that shows this PID namespace; return False where the kernel refuses it."""
    try:
        syscalls.mount(
            "proc", target, "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC, "subset=pid,hidepid=2"
        )
    except OSError:
        # "Mount too revealing": a container masks parts of its own /proc. An empty /proc isolates
        # more, and the runtimes work without it.
        return False
    return True


# Process: init. A socket belongs to the network namespace of the process that made it, wherever its
# descriptor goes (network_namespaces(7)): the worker's proxy accepts on it from outside.
def _listen_for_proxy() -> int:
    """Bring the loopback device up and listen on it; return the listening socket's descriptor."""
    _bring_loopback_up()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", PROXY_PORT))
    listener.listen(64)
    return listener.detach()


# Process: init. netdevice(7): struct ifreq is a name of 16 bytes and a union, here a short. Setting
# flags needs CAP_NET_ADMIN in the user namespace that owns the network namespace.
def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


# Process: init. setresuid(2) needs CAP_SETUID in the user namespace, and a mapped target. Changing
# from uid 0 to others would empty the capability sets (capabilities(7)); this namespace maps no uid
# 0, so init keeps the capabilities that it needs to mount the bundle.
#
# A change of ids clears the parent-death signal and can reset dumpability (prctl(2)), so both are
# set after it. Not dumpable: processes of the same uid may neither trace init nor open its /proc
# files.
def _drop_ids() -> None:
    """Become the sandbox's only uid, and set the signal that ends init with the zygote."""
    try:
        os.setgroups([])
    except PermissionError:
        # An unprivileged zygote had to deny setgroups before it could map its gid
        # (user_namespaces(7)). Its supplementary groups are not mapped here.
        os.getgroups()
    os.setresgid(INSIDE_UID, INSIDE_UID, INSIDE_UID)
    os.setresuid(INSIDE_UID, INSIDE_UID, INSIDE_UID)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


# Process: init. fork(2) copies bounding set, securebits, rlimits and environment to the runtime:
# set once, and the memory touched in doing so is shared by both.
def _restrict_before_fork(config: ZygoteConfig, limits: Limits) -> None:
    """Apply the restrictions that init and the runtime have in common."""
    if "capabilities" not in config.missing:
        capabilities.lock()
    if "rlimits" not in config.missing:
        limit_prewarmed(limits)
    if limits.network:
        os.environ.update(PROXY_ENVIRONMENT)


# Process: runtime, PID 2. setsid(2): no controlling terminal, and a session of its own. Dumpable
# until the lock-down ends: the files below /proc/self belong to root otherwise, and oom_score_adj
# could not be written (proc(5)).
def _run_runtime(
    config: ZygoteConfig, zygote: socket.socket, permissions: lockdown.Permissions, facts: dict[str, Any], gate: int
) -> None:
    """Be PID 2; never returns."""
    try:
        os.setsid()
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        facts |= lockdown.lock_down(permissions, config, HOME_PATH)
        protocol.send(zygote, {"ready": facts})
        lockdown.become_runtime(config, zygote, inside_command(config) if config.command else [], gate)
    except BaseException as error:  # noqa: BLE001 - a missing layer ends the process before any function runs
        lockdown.send_failure(zygote, error)
    os._exit(71)


# Process: init. pid_namespaces(7): orphans inside become children of PID 1, and when it ends the
# kernel kills every other process of the namespace; signals from inside that it has no handler for
# are dropped. Orphans that end stay zombies until the runtime has ended, so the worker finds them
# as children of init (`Sandbox.leftovers`). pidfd_open(2): the descriptor is readable once the
# process has ended.
#
# Until the bundle is there init waits for both the zygote's message and the runtime's end. Closing
# 0 to 4 leaves control, log and trace to the runtime alone, so that their end is its end.
def _supervise(child: int, config: ZygoteConfig, zygote: socket.socket, gate: int) -> None:
    """Mount the bundle when it comes, then wait for the runtime's end and report it.

    Args:
        gate: an eventfd(2) that lets the runtime pass once the bundle is mounted and the limits
            hold.
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


# Process: init. move_mount(2) puts the zygote's detached trees into this mount namespace, for which
# init has CAP_SYS_ADMIN; the runtime, which shares the namespace, sees them at once. A remount of
# the tmpfs changes its size in place. The rlimits are the runtime's, by prlimit(2).
def _attach(child: int, config: ZygoteConfig, zygote: socket.socket, gate: int) -> bool:
    """Mount bundle and packages, and lower the runtime's limits to the function's.

    Returns:
        False if the zygote is gone.
    """
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
    attached_s = time.monotonic()  # by the machine's clock: the new time namespace is for children
    os.eventfd_write(gate, 1)
    os.close(gate)
    protocol.send(zygote, {"attached": {}, "at_s": attached_s})
    return True


# Process: init. getrusage(2): ru_maxrss is in KiB, of the largest process among the child and those
# it has waited for.
def _send_exit(zygote: socket.socket, status: int, usage: resource.struct_rusage) -> None:
    try:
        protocol.send(zygote, {"ended": status, "peak_kib": usage.ru_maxrss})
    except OSError:
        return  # the zygote is gone
