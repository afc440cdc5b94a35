"""The restricted level, as the zygote's part of it: paths a stranger can reach, private folders, process groups.

Knows: what has to be done from outside a new sandbox. Does not know: what is done inside (`restricted`).
"""

from __future__ import annotations

import os

from . import kernel, publish, restricted, scratch, seccomp, skeleton
from .carried import Carried
from .plan import Plan
from .seccomp import FilterChoice


class RestrictedLevel:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._readable: list[str] = []
        self._scratch = ""
        self._published = publish.Published()
        self._covered: dict[str, int] = {}

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

    def filter_choice(self, *, network: bool, shared_memory: bool) -> FilterChoice:
        return FilterChoice(
            network=network, shared_memory=shared_memory, namespaces=False, other_uid=self._plan.uid_base > 0
        )

    def fork(self, carried: Carried) -> tuple[int, int]:
        if self._scratch:
            carried.home = scratch.make_home(self._scratch, carried.slot, self._uid_of(carried))
        pid = kernel.fork()
        return pid, os.pidfd_open(pid) if pid else -1

    def _uid_of(self, carried: Carried) -> int:
        return self._plan.uid_base + carried.slot if self._plan.uid_base else 0

    def run(self, carried: Carried, inside: tuple[int, int, int, int], program: bytes) -> None:
        restricted.run(self._plan, carried.bounds, self._uid_of(carried), inside, program, self._readable, carried.home)

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

    def close(self) -> None:
        self._published.close()
        scratch.close_scratch(self._scratch)
