"""Control groups: limits on a sandbox as a whole, where the host permits any (cgroups(7)).

`cgroup_v1` and `cgroup_v2` implement the interface below. Without either, rlimits bound each
process by itself.
"""

from __future__ import annotations

import os
from typing import Any, Final, Protocol

from .. import ownership
from ..protocol import Limits

PREFIX: Final = "sandlot-"
MIB: Final = 1024 * 1024
CPU_PERIOD_US: Final = 100_000


# Process: zygote, all functions of this module. The groups belong to the host's mounts: a sandbox
# has no cgroup file system, and its cgroup namespace shows its own group as the root.
class Cgroups(Protocol):
    """The groups of one zygote's sandboxes, by slot."""

    counts_memory: bool

    def describe(self) -> dict[str, Any]:
        """Return the mechanism that limits memory, processes and CPU time, for the receipt."""

    def prepare(self, slot: int, limits: Limits) -> None:
        """Make the slot's group, unless it is kept from before, and set its limits."""

    def join_fds(self, slot: int) -> tuple[int, ...]:
        """Return descriptors through which a new process joins the slot's group by itself.

        It writes a zero to each. The caller does not own them.
        """

    def join(self, slot: int, pid: int) -> None:
        """Move the new process into the slot's group, if it cannot join by itself."""

    def limit(self, slot: int, limits: Limits) -> None:
        """Set the limits of the slot's group."""

    def leave(self, slot: int) -> dict[str, Any]:
        """Return the group's counters; every process in it must be dead and reaped."""

    def close(self) -> None:
        """Remove every group."""


class NoCgroups:
    """The absence of cgroups: every limit is an rlimit, on each process by itself."""

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
    """Return the name of this zygote's group."""
    return PREFIX + ownership.tag()


def remove_stale(parent: str) -> None:
    """Remove the groups of zygotes that no longer exist, as those of a killed worker."""
    for name in os.listdir(parent):
        if name.startswith(PREFIX) and ownership.is_stale(name):
            remove_tree(f"{parent}/{name}")


# cgroups(7): a group is removed by rmdir(2), its files with it, once it has no child groups and no
# processes; else the call fails with EBUSY.
def remove_tree(folder: str) -> None:
    """Remove a group and those below it.

    A group that still has processes stays, and is removed at the next start of a zygote.
    """
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


# proc(5), /proc/pid/mountinfo: field 4 is the mount's root within the hierarchy, field 5 the mount
# point; the part after " - " is type, source and options, which for v1 name the controllers.
# cgroups(7), /proc/pid/cgroup: hierarchy:controllers:path, with no controllers for v2. The path is
# relative to the hierarchy's root, so the mount's root is taken off.
def own_groups() -> dict[str, str]:
    """Return this process's group by controller, as paths in the mounted hierarchies.

    The key `""` stands for the v2 tree.
    """
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


# One write(2) per value: a control file takes a value as a whole.
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
    """Return one number of a file of `key value` lines; 0 if the key is missing."""
    for line in read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0
