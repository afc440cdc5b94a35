"""The strict level, as the zygote's part of it: its own mounts, the skeleton, identity maps, detached mounts of bundles.

Knows: what has to be done from outside a new sandbox. Does not know: what PID 1 does inside (`strict`).
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


class StrictLevel:
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

    def _enter_own_mounts(self) -> None:
        """A mount namespace of our own; for an ordinary user inside a user namespace that maps nobody but that user."""
        if self._config.uid_base:
            syscalls.unshare(syscalls.CLONE_NEWNS)
        else:
            uid, gid = os.geteuid(), os.getegid()
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
            syscalls.write_file("/proc/self/setgroups", b"deny")
            syscalls.write_file("/proc/self/uid_map", f"0 {uid} 1".encode())
            syscalls.write_file("/proc/self/gid_map", f"0 {gid} 1".encode())
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)

    def finish_setup(self, *, memory_counted: bool) -> None:
        for network in (False, True):
            choice = seccomp.FilterChoice(network=network, shared_memory=memory_counted)
            self._filters[network] = seccomp.build_filter(choice, syscalls.MACHINE)
        self._fork_server = ForkServer(strict_init.NAMESPACES, self._run_child)

    def _run_child(self, init_socket: int) -> None:
        strict_init.run_init(self._rootfs_dir, self._config, init_socket, self._outside, self._filters)

    def fork(self, child: Child, init_socket: int) -> int:
        if self._fork_server is None:
            raise RuntimeError("finish_setup comes first")
        return self._fork_server.spawn(init_socket)

    def map_ids(self, child: Child) -> None:
        # A host uid for each sandbox where we are root; else 0, which is our own in the user namespace we made.
        uid = self._config.uid_base + child.slot if self._config.uid_base else 0
        for kind in ("uid_map", "gid_map"):
            syscalls.write_file(f"/proc/{child.pid}/{kind}", f"{INSIDE_UID} {uid} 1".encode())

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

    def kill(self, child: Child) -> None:
        os.kill(child.pid, signal.SIGKILL)

    def on_exit(self, child: Child, status: int) -> int | None:
        """The kernel has killed and reaped everything else with PID 1, whose own status says nothing."""
        return child.status

    def on_other_exit(self, pid: int) -> None:
        if self._fork_server is not None:
            self._fork_server.on_reaped(pid)

    def close(self) -> None:
        if self._fork_server is not None:  # the mounts go with our namespace
            self._fork_server.close()
