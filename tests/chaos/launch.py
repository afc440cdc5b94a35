"""Become another program, optionally on another host or with its own disk, and die with the parent.

`python launch.py <parent's pid> <file of a network namespace, or ""> <image of a disk, or "">
<where to mount it> <program> <argument>…`

The disk is mounted in a mount namespace that ends with the program. A shared mount would be copied
into every namespace made meanwhile (each worker's sandboxes make some), and would live as long as
the last of them. This is a program rather than code between fork and exec, because the process
that starts it may have threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)
CLONE_NEWNET = 0x40000000  # setns(2)
CLONE_NEWNS = 0x00020000  # unshare(2)
MS_REC_PRIVATE = 0x44000  # mount(2)


def main() -> None:
    parent, network, image, point, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the request was in force
        sys.exit(125)
    if network:
        descriptor = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            sys.exit(f"cannot enter {network}: {os.strerror(ctypes.get_errno())}")
    if image:
        if libc.unshare(CLONE_NEWNS) != 0 or libc.mount(None, b"/", None, MS_REC_PRIVATE, None) != 0:
            sys.exit(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
        subprocess.run(["mount", "-o", "loop", image, point], check=True)
    os.execv(command[0], command)  # noqa: S606  # that is the point


if __name__ == "__main__":
    main()
