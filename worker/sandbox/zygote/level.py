"""One sandbox as its zygote sees it, and the interface of the two isolation levels."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import Protocol

from .protocol import Limits


@dataclass(slots=True)
class Child:
    """A sandbox's first process: its numbers, its descriptors and its messages so far."""

    number: int
    """The worker's number for the sandbox."""
    slot: int
    """The zygote's number, which uid, cgroup and home derive from; free again after the end."""
    limits: Limits
    init_socket: socket.socket
    """The zygote's end of the socket to the trusted code inside. The process that holds the other
    end has not run a function."""
    pid: int = -1
    worker_fds: tuple[int, ...] = ()
    """The descriptors that the worker gets once the sandbox is ready: pidfd, its ends of control,
    log and trace, and the proxy's listening socket if there is a network."""
    ready: bool = False
    folders: list[str] = field(default_factory=list)
    """The bundle and, if there are any, the packages, as seen inside."""
    home: str = ""
    """The sandbox's writable folder at the restricted level, which has no mount namespace."""
    status: int | None = None
    """The wait status of the runtime's process, as init reported it."""
    peak_kib: int = 0
    failure: str = ""

    # Process: zygote, as for close_worker_fds.
    def close(self) -> None:
        self.init_socket.close()
        self.close_worker_fds()

    def close_worker_fds(self) -> None:
        for fd in self.worker_fds:
            os.close(fd)
        self.worker_fds = ()


class Level(Protocol):
    """The steps that the zygote takes for its sandboxes at one isolation level."""

    # Process: zygote, all of them.

    def open(self) -> None:
        """Build the parts that all sandboxes share.

        Raises:
            OSError: this machine does not permit it; the message is for people.
        """

    def finish_setup(self, *, memory_counted: bool) -> None:
        """Complete the setup before the first sandbox, which shares all memory written until now.

        Args:
            memory_counted: cgroups count a sandbox's memory as a whole.
        """

    def fork(self, child: Child, init_socket: int) -> int:
        """Start a process for the sandbox and return its pid; only the zygote returns.

        The new process is the zygote's child. It waits at `init_socket` for the message to start.

        Raises:
            OSError: the kernel refused a process or a namespace.
            ForkServerGone: the fork server has ended.
        """

    def map_ids(self, child: Child) -> None:
        """Map the uid and the gid of the new process, before it gets the message to start."""

    def share_folders(self, folders: list[str]) -> tuple[list[str], tuple[int, ...]]:
        """Return the folders' paths as seen inside, and descriptors to send along.

        The descriptors are the caller's to close.
        """

    def kill(self, child: Child) -> None:
        """Kill everything in the sandbox.

        The child must not have been reaped, so that its pid still belongs to it.
        """

    def on_exit(self, child: Child, status: int) -> int | None:
        """Clean up after the first process was reaped with this wait status.

        Returns:
            The wait status of the runtime's process, or None if it is not known.
        """

    def on_other_exit(self, pid: int) -> None:
        """Handle a reaped child that is not a sandbox.

        Raises:
            ForkServerGone: it was the fork server.
        """

    def close(self) -> None:
        """Remove what `open` made outside this process."""
