"""Landlock: which paths, ports, sockets and signals a process may still name (landlock(7)).

Knows: the rights of each ABI. Does not know: which mode asks, or why.
It never restricts chmod, utime, stat or descriptors that are already open; other walls answer for those.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Final

from .. import syscalls

READ: Final = 0b1101  # EXECUTE, READ_FILE, READ_DIR
WRITE_FILE: Final = 1 << 1
TRUNCATE: Final = 1 << 14
IOCTL_DEVICE: Final = 1 << 15
_BY_ABI: Final = ((1, (1 << 13) - 1), (2, 1 << 13), (3, TRUNCATE), (5, IOCTL_DEVICE))
_FILE_ONLY: Final = 1 | WRITE_FILE | 1 << 2 | TRUNCATE | IOCTL_DEVICE
NETWORK_FROM: Final = 4
BIND_TCP: Final = 1
CONNECT_TCP: Final = 2
SCOPE_FROM: Final = 6
SCOPE_ABSTRACT_SOCKETS: Final = 1
SCOPE_SIGNALS: Final = 2


def restrict(
    abi: int, *, readable: Iterable[str], writable: Iterable[str], devices: Iterable[str], connect_ports: Iterable[int]
) -> None:
    """Confine this thread and all it will start, as far as `abi` goes; needs no-new-privs."""
    rules = compose(abi, readable=readable, writable=writable, devices=devices, connect_ports=connect_ports)
    syscalls.landlock_restrict_self(rules)
    os.close(rules)


def compose(
    abi: int, *, readable: Iterable[str], writable: Iterable[str], devices: Iterable[str], connect_ports: Iterable[int]
) -> int:
    """These rules as a descriptor; they bind nobody yet.

    Args:
        readable: trees to read and execute.
        writable: trees to do anything in but make devices.
        devices: single files to read and write.
        connect_ports: TCP ports that may be connected to; binding is refused altogether.
    """
    handled = 0
    for since, rights in _BY_ABI:
        handled |= rights if abi >= since else 0
    attributes = struct.pack("=Q", handled)
    if abi >= NETWORK_FROM:
        attributes += struct.pack("=Q", BIND_TCP | CONNECT_TCP)
    if abi >= SCOPE_FROM:
        attributes += struct.pack("=Q", SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS)
    ruleset = syscalls.landlock_ruleset(attributes)
    for path in readable:
        _allow_path(ruleset, path, READ & handled)
    make_device = 1 << 6 | 1 << 11  # MAKE_CHAR, MAKE_BLOCK
    for path in writable:
        _allow_path(ruleset, path, handled & ~make_device)
    for path in devices:
        _allow_path(ruleset, path, (1 << 2 | WRITE_FILE | TRUNCATE | IOCTL_DEVICE) & handled)
    if abi >= NETWORK_FROM:
        for port in connect_ports:
            syscalls.landlock_add_rule(ruleset, 2, struct.pack("=QQ", CONNECT_TCP, port))
    return ruleset


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= _FILE_ONLY
        syscalls.landlock_add_rule(ruleset, 1, struct.pack("=Qi", rights, fd))
    finally:
        os.close(fd)
