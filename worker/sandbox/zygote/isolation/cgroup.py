"""Control groups: limits on a sandbox as a whole, where the host lets us make any.

Knows: how to find out what can be had, and what having none means. Does not know: what a sandbox is; slots are numbers.
`cgroup_v1` and `cgroup_v2` have the files. Safe without: then rlimits bound each process instead.
"""

from __future__ import annotations

import os
from typing import Any, Final, Protocol

from .. import ownership
from ..protocol import Limits

PREFIX: Final = "sandlot-"
MIB: Final = 1024 * 1024
CPU_PERIOD_US: Final = 100_000


class Cgroups(Protocol):
    """The groups of one zygote's sandboxes."""

    counts_memory: bool

    def describe(self) -> dict[str, Any]:
        """For the receipt: what limits memory, processes and CPU time."""

    def prepare(self, slot: int, limits: Limits) -> None:
        """Have an empty group with these limits ready for the slot."""

    def join_fds(self, slot: int) -> tuple[int, ...]:
        """Descriptors, ours to keep, by which the new process can enter the slot's group by itself: it writes a zero to each."""

    def join(self, slot: int, pid: int) -> None:
        """Called in the zygote: put the new process into the slot's group, if it could not do so itself."""

    def limit(self, slot: int, limits: Limits) -> None:
        """Bring the slot's group to these limits."""

    def leave(self, slot: int) -> dict[str, Any]:
        """What the group counted; every process in it must be dead and reaped."""

    def close(self) -> None:
        """Remove every group."""


class NoCgroups:
    """Nothing can be had: every limit is an rlimit, on each process for itself."""

    counts_memory = False

    def describe(self) -> dict[str, Any]:
        return {"memory": "rlimit", "processes": "rlimit", "cpu": "none"}

    def prepare(self, slot: int, limits: Limits) -> None:
        return

    def join_fds(self, slot: int) -> tuple[int, ...]:
        return ()

    def join(self, slot: int, pid: int) -> None:
        return

    def limit(self, slot: int, limits: Limits) -> None:
        return

    def leave(self, slot: int) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        return


def own_name() -> str:
    return PREFIX + ownership.tag()


def remove_stale(parent: str) -> None:
    """Remove the groups of zygotes that no longer exist; a kill of the worker leaves them."""
    for name in os.listdir(parent):
        if name.startswith(PREFIX) and ownership.is_stale(name):
            remove_tree(f"{parent}/{name}")


def remove_tree(folder: str) -> None:
    """rmdir a group and those in it. One that still has processes stays, for the next start to remove."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
        os.rmdir(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != 16:  # EBUSY
            raise


def own_groups() -> dict[str, str]:
    """This process's group by controller, as paths in the mounted hierarchies; key `""` is the v2 tree."""
    mounts: list[tuple[str, str, str, set[str]]] = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            fields, _, kind = line.partition(" - ")
            _id, _parent, _device, root, point, *_rest = fields.split(" ")
            name, _source, options = kind.split(" ", 2)
            if name in ("cgroup", "cgroup2"):
                mounts.append((name, root, point, set(options.strip().split(","))))
    groups: dict[str, str] = {}
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _number, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                for name, root, point, offered in mounts:
                    if (name == "cgroup2" and not controller) or (name == "cgroup" and controller in offered):
                        inside = path.removeprefix(root) if root != "/" else path
                        groups[controller] = os.path.normpath(f"{point}/{inside}")
    return groups


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def read_field(path: str, key: str) -> int:
    """One number of a file of `key value` lines; 0 if it is not there."""
    for line in read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0
