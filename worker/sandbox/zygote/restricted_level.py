"""The zygote's part of the restricted level: the steps that are taken from outside a sandbox.

These are paths that another uid can reach, private folders and process groups. `restricted_init` is
the part inside.
"""

from __future__ import annotations

import os

from . import restricted_init, syscalls
from .isolation import host_paths, rootfs, seccomp, tmpdir
from .level import Child
from .protocol import ZygoteConfig


# Process: zygote.
class RestrictedLevel:
    """Sandboxes without namespaces, forked by the zygote itself."""

    def __init__(self, config: ZygoteConfig) -> None:
        self._config = config
        self._readable: list[str] = []
        self._tmpdirs = ""
        self._bundle_copies = host_paths.BundleCopies()
        self._covered: dict[str, int] = {}
        self._filter = b""

    def open(self) -> None:
        # prctl(2): orphans of sandboxes become children of this process, which reaps them, and not
        # of a container's PID 1, which may not.
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        self._tmpdirs = tmpdir.open_tmpdirs()
        self._readable = [
            *rootfs.shared_paths(self._config),
            self._config.folder,
            *filter(os.path.exists, restricted_init.ETC),
        ]
        if self._config.uid_base:
            # The zygote's own files may lie below a folder that is covered now, such as a checkout
            # in a home of mode 0700. The table that is read from disk later is read, and cached,
            # first.
            seccomp.syscall_numbers(os.uname().machine)
            self._covered = host_paths.expose(self._readable)
        restricted_init.check_support(self._config, self._readable)

    def finish_setup(self, *, memory_counted: bool) -> None:
        choice = seccomp.FilterChoice(
            network=False, shared_memory=memory_counted, namespaces=False, other_uid=self._config.uid_base > 0
        )
        self._filter = seccomp.build_filter(choice, syscalls.MACHINE)

    def fork(self, child: Child, init_socket: int) -> int:
        if self._tmpdirs:
            child.home = tmpdir.make_home(self._tmpdirs, child.slot, self._uid_of(child))
        # Not by the fork server: this process goes on to be the runtime, so the C library has to
        # know it, and the library's fork(2) has no CLONE_PARENT.
        pid = syscalls.fork()
        if pid == 0:
            restricted_init.run(
                self._config, init_socket, self._uid_of(child), self._filter, self._readable, child.home
            )
        return pid

    def _uid_of(self, child: Child) -> int:
        return self._config.uid_base + child.slot if self._config.uid_base else 0

    def map_ids(self, child: Child) -> None:
        return  # the process changes its uid by itself

    def share_folders(self, folders: list[str]) -> tuple[list[str], tuple[int, ...]]:
        if not self._config.uid_base:
            return folders, ()
        return [self._bundle_copies.path(folder, self._covered) for folder in folders], ()

    def kill(self, child: Child) -> None:
        restricted_init.kill_group(child.pid)

    def on_exit(self, child: Child, status: int) -> int | None:
        restricted_init.reap_group(child.pid)
        if child.home:
            tmpdir.remove_home(child.home)
        return status

    def on_other_exit(self, pid: int) -> None:
        return  # an orphan of a sandbox

    def close(self) -> None:
        self._bundle_copies.close()
        tmpdir.close_tmpdirs(self._tmpdirs)
