"""The mould: a copy of the zygote that does nothing but fork, so that the sandboxes spawn from it share its memory.

A page that a parent writes to after a fork is the child's alone from then on. The zygote speaks with the worker between two forks; a sandbox forked
from it held some 700 KiB of the zygote's past. What the mould writes to, it writes to each time, and a new process does too.
Knows: clone, one descriptor per process. Does not know: what becomes of the process.
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
"""Of a pid, of an errno below zero, and of a descriptor in a control message: each a C int."""


class ForkServerGone(Exception):
    """It was killed, by whoever. The zygote ends as well: another takes its place."""


class ForkServer:
    """The zygote's side."""

    def __init__(self, flags: int, run_child: Callable[[int], None]) -> None:
        """Start it as a child of this process.

        Args:
            flags: of clone(2), the new namespaces.
            run_child: what a new process does with the descriptor it was made for; never returns.
        """
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = syscalls.fork()
        if self._pid == 0:
            try:
                _serve(theirs, flags, run_child)
            finally:
                os._exit(73)
        theirs.close()

    def spawn(self, fd: int) -> int:
        """A new process, in new namespaces, that begins with `fd`; a child of the caller, who reaps it.

        Raises:
            OSError: clone(2) was refused.
            ForkServerGone: nothing can be spawn any more.
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

    def on_reaped(self, pid: int) -> None:
        """A child of ours has been reaped.

        Raises:
            ForkServerGone: it was this one.
        """
        if pid == self._pid:
            self._pid = 0
            raise ForkServerGone

    def close(self) -> None:
        self._sock.close()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _serve(theirs: socket.socket, flags: int, run_child: Callable[[int], None]) -> NoReturn:
    """Be the mould, until the zygote closes its end or dies."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(theirs.fileno(), _FD, inheritable=False)
    # The rest is the zygote's: whoever holds the worker's socket keeps the worker from seeing the zygote's end.
    syscalls.close_range(_FD + 1, 0x7FFFFFFF)
    sock = socket.socket(fileno=_FD)
    space = socket.CMSG_SPACE(_WIDTH)
    while True:
        asked, control, _flags, _address = sock.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
        if not asked:
            os._exit(0)
        fd = int.from_bytes(control[0][2], sys.byteorder)
        try:
            # The new process is the zygote's child, not ours: it is the zygote that reaps it, and whose death ends it.
            pid = syscalls.clone(flags | syscalls.CLONE_PARENT)
        except OSError as error:
            pid = -(error.errno or errno.EIO)
        if pid == 0:
            sock.close()  # first: while we hold it, the zygote does not see the mould's end
            run_child(fd)
        os.close(fd)
        sock.send(pid.to_bytes(_WIDTH, sys.byteorder, signed=True))
