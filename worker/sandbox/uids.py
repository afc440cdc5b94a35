"""Host uids that no other worker on this machine uses at the same time.

Knows: one block of uids per zygote. Does not know: who runs under them.
The lock is an abstract socket: the kernel releases it when the owner dies, and no file is left.
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
    """The first uid of a free block, and the lock: whoever closes it gives the block back.

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
