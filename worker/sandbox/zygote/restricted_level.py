"""The restricted level, as the zygote's part of it: paths a stranger can reach, private folders, process groups.

Knows: what has to be done from outside a new sandbox. Does not know: what is done inside (`restricted`).
"""

from __future__ import annotations

import os

from . import restricted_init, syscalls
from .isolation import host_paths, rootfs, seccomp, tmpdir
from .level import Child
from .protocol import Plan


class RestrictedLevel:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._readable: list[str] = []
        self._scratch = ""
        self._published = host_paths.Published()
        self._covered: dict[str, int] = {}
        self._program = b""

    def open(self) -> None:
        # Orphans come to us, not to whatever is PID 1 of a container.
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        self._scratch = tmpdir.open_scratch()
        self._readable = [
            *rootfs.shared_paths(self._plan),
            self._plan.folder,
            *filter(os.path.exists, restricted_init.ETC),
        ]
        if self._plan.uid_base:
            # Our own files may lie below what is covered now (a checkout in a home of mode 0700): read what is read from disk first.
            seccomp.syscall_numbers(os.uname().machine)
            self._covered = host_paths.open_ways_to(self._readable)
        restricted_init.require(self._plan, self._readable)

    def settle(self, *, counted: bool) -> None:
        choice = seccomp.FilterChoice(
            network=False, shared_memory=counted, namespaces=False, other_uid=self._plan.uid_base > 0
        )
        self._program = seccomp.build_filter(choice, syscalls.MACHINE)

    def fork(self, carried: Child, ini: int) -> int:
        if self._scratch:
            carried.home = tmpdir.make_home(self._scratch, carried.slot, self._uid_of(carried))
        # Not from a mould: the C library has to know this process, which goes on to be the runtime, and its fork makes children of its caller only.
        pid = syscalls.fork()
        if pid == 0:
            restricted_init.run(self._plan, ini, self._uid_of(carried), self._program, self._readable, carried.home)
        return pid

    def _uid_of(self, carried: Child) -> int:
        return self._plan.uid_base + carried.slot if self._plan.uid_base else 0

    def admit(self, carried: Child) -> None:
        return  # it changes its uid by itself

    def hand_over(self, folders: list[str]) -> tuple[list[str], tuple[int, ...]]:
        if not self._plan.uid_base:
            return folders, ()
        return [self._published.path(folder, self._covered) for folder in folders], ()

    def kill(self, carried: Child) -> None:
        restricted_init.kill_group(carried.pid)

    def bury(self, carried: Child, status: int) -> int | None:
        restricted_init.reap_group(carried.pid)
        if carried.home:
            tmpdir.remove_home(carried.home)
        return status

    def note_other(self, pid: int) -> None:
        return  # an orphan, adopted by us

    def close(self) -> None:
        self._published.close()
        tmpdir.close_scratch(self._scratch)
