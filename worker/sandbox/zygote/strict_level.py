"""The zygote's part of the strict level: the steps that are taken from outside a sandbox.

These are its own mount namespace, the root file system, id maps and detached mounts of bundles.
`strict_init` is the part inside.
"""

from __future__ import annotations

import os
import signal

from . import strict_init, syscalls
from .fork_server import ForkServer
from .isolation import rootfs, seccomp
from .level import Child
from .protocol import INSIDE_UID, ZygoteConfig

BUNDLE_ATTRIBUTES = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


# Process: zygote, except _run_child.
class StrictLevel:
    """Sandboxes in namespaces of their own, started by a fork server."""

    def __init__(self, config: ZygoteConfig) -> None:
        self._config = config
        self._rootfs_dir = f"{config.state_dir}/root"
        self._outside: dict[str, int] = {}
        self._filters: dict[bool, bytes] = {}
        """The compiled filters, without and with a network."""
        self._fork_server: ForkServer | None = None

    def open(self) -> None:
        self._enter_own_mounts()
        os.makedirs(self._rootfs_dir, mode=0o755, exist_ok=True)
        rootfs.build(self._rootfs_dir, self._config)
        self._outside = strict_init.namespace_ids()

    # Root has CAP_SYS_ADMIN for unshare(CLONE_NEWNS). An ordinary user gets it by a user namespace,
    # where the kernel permits one: the zygote is uid 0 there, its own uid outside. A process
    # without CAP_SETGID in the outer namespace may write its gid_map only after "deny" was written
    # to setgroups, and each map in a single write (user_namespaces(7)). All sandboxes' user
    # namespaces are then children of this one, and inherit the "deny".
    def _enter_own_mounts(self) -> None:
        """Enter a mount namespace of this process's own, private to it."""
        if self._config.uid_base:
            syscalls.unshare(syscalls.CLONE_NEWNS)
        else:
            uid, gid = os.geteuid(), os.getegid()
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
            syscalls.write_file("/proc/self/setgroups", b"deny")
            syscalls.write_file("/proc/self/uid_map", f"0 {uid} 1".encode())
            syscalls.write_file("/proc/self/gid_map", f"0 {gid} 1".encode())
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)

    # The fork server comes last: it is the copy that all sandboxes share their memory with.
    def finish_setup(self, *, memory_counted: bool) -> None:
        for network in (False, True):
            choice = seccomp.FilterChoice(network=network, shared_memory=memory_counted)
            self._filters[network] = seccomp.build_filter(choice, syscalls.MACHINE)
        self._fork_server = ForkServer(strict_init.NAMESPACES, self._run_child)

    # Process: init.
    def _run_child(self, init_socket: int) -> None:
        strict_init.run_init(self._rootfs_dir, self._config, init_socket, self._outside, self._filters)

    def fork(self, child: Child, init_socket: int) -> int:
        if self._fork_server is None:
            raise RuntimeError("finish_setup comes first")
        return self._fork_server.spawn(init_socket)

    # user_namespaces(7): a map is written once, from the parent user namespace, by a process with
    # CAP_SETUID (CAP_SETGID) there. Inside there is one uid, INSIDE_UID. Outside it is a uid of the
    # sandbox's own if the zygote is root, else 0, the zygote's own uid in the user namespace it
    # made.
    def map_ids(self, child: Child) -> None:
        uid = self._config.uid_base + child.slot if self._config.uid_base else 0
        for kind in ("uid_map", "gid_map"):
            syscalls.write_file(f"/proc/{child.pid}/{kind}", f"{INSIDE_UID} {uid} 1".encode())

    # open_tree(2) needs CAP_SYS_ADMIN for the mount namespace, so it is called here and not in the
    # worker, which may have none. A detached mount is its own root: from inside, ".." of the bundle
    # leads to the sandbox's root, while a plain folder descriptor would lead to the host's.
    def share_folders(self, folders: list[str]) -> tuple[list[str], tuple[int, ...]]:
        trees: list[int] = []
        try:
            for folder in folders:
                trees.append(syscalls.open_tree(folder))
                syscalls.mount_setattr(trees[-1], "", syscalls.AT_EMPTY_PATH, BUNDLE_ATTRIBUTES)
        except OSError:
            for tree in trees:
                os.close(tree)
            raise
        return list(strict_init.MOUNT_POINTS[: len(folders)]), tuple(trees)

    # pid_namespaces(7): SIGKILL from outside reaches PID 1, and the kernel kills the rest with it.
    def kill(self, child: Child) -> None:
        os.kill(child.pid, signal.SIGKILL)

    def on_exit(self, child: Child, status: int) -> int | None:
        """Return the runtime's status as init reported it.

        The kernel has killed and reaped everything else with init, whose own status means nothing.
        """
        return child.status

    def on_other_exit(self, pid: int) -> None:
        if self._fork_server is not None:
            self._fork_server.on_reaped(pid)

    def close(self) -> None:
        if self._fork_server is not None:  # the mounts end with the zygote's mount namespace
            self._fork_server.close()
