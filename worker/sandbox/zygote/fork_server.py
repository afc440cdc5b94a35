"""The fork server: a copy of the zygote that only forks, so that sandboxes share its memory.

After a fork, a page that the parent writes to becomes the child's alone. The zygote exchanges
messages with the worker between two forks, so a sandbox forked from it held some 700 KiB of the
zygote's past. The fork server writes to the same pages at each fork, and so does a new process.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from . import syscalls

_FD: Final = 3
_WIDTH: Final = 4
"""Bytes of a C int: a pid, a negated errno, or a descriptor in a control message."""


class ForkServerGone(Exception):
    """The fork server was killed. The zygote ends as well, and the worker starts another."""


class ForkServer:
    """The zygote's end of the socket to the fork server."""

    # Process: zygote, and the fork server from the fork on. A plain fork(2): the fork server lives
    # in the zygote's namespaces. 73 reports a fork server that left its loop by an exception.
    def __init__(self, flags: int, run_child: Callable[[int], None]) -> None:
        """Start the fork server as a child of this process.

        Args:
            flags: the new namespaces, as flags of clone(2).
            run_child: runs in each new process with the descriptor it was made for; never returns.
        """
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = syscalls.fork()
        if self._pid == 0:
            try:
                _serve(theirs, flags, run_child)
            finally:
                os._exit(73)
        theirs.close()

    # Process: zygote. Blocks until the fork server has answered.
    def spawn(self, fd: int) -> int:
        """Start a process in new namespaces, and return its pid.

        The process begins with `fd`. It is a child of the caller, who has to reap it.

        Raises:
            OSError: clone(2) failed.
            ForkServerGone: the fork server has ended.
        """
        try:
            socket.send_fds(self._sock, [b"!"], [fd])
            answer = self._sock.recv(_WIDTH)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
        if not answer:
            raise ForkServerGone
        pid = int.from_bytes(answer, sys.byteorder, signed=True)
        if pid < 0:
            raise OSError(-pid, f"clone: {os.strerror(-pid)}")
        return pid

    # Process: zygote.
    def on_reaped(self, pid: int) -> None:
        """Check a child that was just reaped.

        Raises:
            ForkServerGone: it was the fork server.
        """
        if pid == self._pid:
            self._pid = 0
            raise ForkServerGone

    # Process: zygote. The fork server has not been reaped, so its pid cannot have been reused.
    def close(self) -> None:
        self._sock.close()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


# Process: fork server; after the clone, also the new process, which becomes init.
#
# PR_SET_PDEATHSIG (prctl(2)) ends the fork server with the zygote; a fork clears the setting, so
# each process sets its own.
#
# CLONE_PARENT (clone(2)) makes the new process a child of the fork server's parent, the zygote: the
# zygote reaps it, and the zygote's death, not the fork server's, is its parent death. With
# CLONE_PARENT the kernel ignores the exit signal in `flags` and takes the caller's own, which is
# SIGCHLD as well (copy_process in kernel/fork.c).
#
# The returned pid is a number of the fork server's PID namespace, which is also the zygote's.
def _serve(theirs: socket.socket, flags: int, run_child: Callable[[int], None]) -> NoReturn:
    """Fork on request until the zygote closes its end or dies."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(theirs.fileno(), _FD, inheritable=False)
    # The zygote's other descriptors must go: a copy of the worker's socket here would keep the
    # worker from seeing the end of the zygote.
    syscalls.close_range(_FD + 1, 0x7FFFFFFF)
    sock = socket.socket(fileno=_FD)
    space = socket.CMSG_SPACE(_WIDTH)
    while True:
        asked, control, _flags, _address = sock.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
        if not asked:
            os._exit(0)
        fd = int.from_bytes(control[0][2], sys.byteorder)
        try:
            pid = syscalls.clone(flags | syscalls.CLONE_PARENT)
        except OSError as error:
            pid = -(error.errno or errno.EIO)
        if pid == 0:
            # First of all: a copy of this socket would keep the zygote from seeing the end of the
            # fork server.
            sock.close()
            run_child(fd)
        os.close(fd)
        sock.send(pid.to_bytes(_WIDTH, sys.byteorder, signed=True))
