"""The restricted level, as the zygote's part of it: paths a stranger can reach, private folders, process groups.

Knows: what has to be done from outside a new sandbox. Does not know: what is done inside (`restricted`).
"""

from __future__ import annotations

import os

from . import kernel, publish, restricted, scratch, seccomp, skeleton
from .carried import Carried
from .plan import Plan


class RestrictedLevel:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._readable: list[str] = []
        self._scratch = ""
        self._published = publish.Published()
        self._covered: dict[str, int] = {}
        self._program = b""

    def open(self) -> None:
        # Orphans come to us, not to whatever is PID 1 of a container.
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._scratch = scratch.open_scratch()
        self._readable = [
            *skeleton.shared_paths(self._plan),
            self._plan.folder,
            *filter(os.path.exists, restricted.ETC),
        ]
        if self._plan.uid_base:
            # Our own files may lie below what is covered now (a checkout in a home of mode 0700): read what is read from disk first.
            seccomp.syscall_numbers(os.uname().machine)
            self._covered = publish.open_ways_to(self._readable)
        restricted.require(self._plan, self._readable)

    def settle(self, *, counted: bool) -> None:
        choice = seccomp.FilterChoice(
            network=False, shared_memory=counted, namespaces=False, other_uid=self._plan.uid_base > 0
        )
        self._program = seccomp.build_filter(choice, kernel.MACHINE)

    def fork(self, carried: Carried, ini: int) -> int:
        if self._scratch:
            carried.home = scratch.make_home(self._scratch, carried.slot, self._uid_of(carried))
        # Not from a mould: the C library has to know this process, which goes on to be the runtime, and its fork makes children of its caller only.
        pid = kernel.fork()
        if pid == 0:
            restricted.run(self._plan, ini, self._uid_of(carried), self._program, self._readable, carried.home)
        return pid

    def _uid_of(self, carried: Carried) -> int:
        return self._plan.uid_base + carried.slot if self._plan.uid_base else 0

    def admit(self, carried: Carried) -> None:
        return  # it changes its uid by itself

    def hand_over(self, folders: list[str]) -> tuple[list[str], tuple[int, ...]]:
        if not self._plan.uid_base:
            return folders, ()
        return [self._published.path(folder, self._covered) for folder in folders], ()

    def kill(self, carried: Carried) -> None:
        restricted.kill_group(carried.pid)

    def bury(self, carried: Carried, status: int) -> int | None:
        restricted.reap_group(carried.pid)
        if carried.home:
            scratch.remove_home(carried.home)
        return status

    def note_other(self, pid: int) -> None:
        return  # an orphan, adopted by us

    def close(self) -> None:
        self._published.close()
        scratch.close_scratch(self._scratch)
