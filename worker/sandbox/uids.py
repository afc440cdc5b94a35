"""Host uids that no other worker on this machine uses at the same time.

Each zygote gets a block of them. The lock on a block is an abstract socket (unix(7)): the kernel
releases the name when its owner dies, and no file is left behind.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from sandlot.errors import SandboxUnavailable

FIRST_UID: Final = 20000
BLOCK_SIZE: Final = 512
BLOCKS: Final = 64


def reserve_block() -> tuple[int, socket.socket]:
    """Return the first uid of a free block, and the lock, which is released by closing it.

    Raises:
        SandboxUnavailable: all blocks are taken.
    """
    for block in range(BLOCKS):
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0sandlot-uids-{block}")
        except OSError as error:
            lock.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        return FIRST_UID + block * BLOCK_SIZE, lock
    raise SandboxUnavailable(
        f"all {BLOCKS} blocks of sandbox uids from {FIRST_UID} are in use on this machine: stop a worker"
    )
