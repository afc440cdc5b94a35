"""Become another program, on another host if need be, and die with whoever asked for it.

`python launch.py <parent's pid> <file of a network namespace, or ""> <program> <argument>…`
A program of its own rather than code between fork and exec, since the process that starts it may have threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)
CLONE_NEWNET = 0x40000000  # setns(2)


def main() -> None:
    parent, network, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the request was in force
        sys.exit(125)
    if network:
        descriptor = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            sys.exit(f"cannot enter {network}: {os.strerror(ctypes.get_errno())}")
    os.execv(command[0], command)  # noqa: S606  # that is the point


if __name__ == "__main__":
    main()
