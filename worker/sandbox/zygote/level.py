"""One sandbox, as the zygote sees it: numbers, descriptors, what was heard from inside. Knows nothing of how it was made."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import Protocol

from .protocol import Limits


@dataclass(slots=True)
class Child:
    number: int
    """The worker's name for it."""
    slot: int
    """Ours: uid, cgroup and home are derived from it; free again when the sandbox is gone."""
    limits: Limits
    init_socket: socket.socket
    """To the trusted side inside; whoever holds the other end has not run a function."""
    pid: int = -1
    worker_fds: tuple[int, ...] = ()
    """pidfd, the worker's ends of control, log and trace, then the join_fd to the network if there is one; until the sandbox is ready."""
    ready: bool = False
    folders: list[str] = field(default_factory=list)
    """The bundle and, if there are any, the packages, as seen inside."""
    home: str = ""
    """Its folder to write in, where there is no mount namespace to make one in."""
    status: int | None = None
    """How the runtime's process ended, as PID 1 told it."""
    peak_kib: int = 0
    failure: str = ""

    def close(self) -> None:
        self.init_socket.close()
        self.close_worker_fds()

    def close_worker_fds(self) -> None:
        for fd in self.worker_fds:
            os.close(fd)
        self.worker_fds = ()


class Level(Protocol):
    def open(self) -> None:
        """Build what all sandboxes share.

        Raises:
            OSError: this machine does not permit it; the message is for people.
        """

    def finish_setup(self, *, memory_counted: bool) -> None:
        """The last word before the first sandbox: what was loaded until now, all of them share.

        Args:
            counted: cgroups count a sandbox's memory as a whole.
        """

    def fork(self, child: Child, init_socket: int) -> int:
        """A new process for the sandbox, a child of ours, that waits at `init_socket` for the order to go; returns its pid, and here only.

        Raises:
            OSError: there are no processes or namespaces to be had.
            MouldGone: the process that it would be spawn from has ended.
        """

    def map_ids(self, child: Child) -> None:
        """Called here, once it exists and before it is told to go on."""

    def share_folders(self, folders: list[str]) -> tuple[list[str], tuple[int, ...]]:
        """The paths of bundle and packages as seen inside, and descriptors to send along, which are the caller's to close."""

    def kill(self, child: Child) -> None:
        """Kill everything in it. Only for a child not yet reaped, so that its number is still its own."""

    def on_exit(self, child: Child, status: int) -> int | None:
        """Its first process has just been reaped with this status: see to the rest; returns how the runtime ended, if that is known."""

    def on_other_exit(self, pid: int) -> None:
        """A child that is no sandbox has been reaped.

        Raises:
            MouldGone: it was the process that sandboxes are spawn from.
        """

    def close(self) -> None:
        """Remove what `open` made outside this process."""
