"""Landlock: the paths, ports, sockets and signals that a process may still use (landlock(7)).

Landlock never restricts chmod, chown, utime, stat or descriptors that are already open; other
layers do. Rights unknown to the running kernel are left out by its ABI number.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Final

from .. import syscalls

# LANDLOCK_ACCESS_FS_* of linux/landlock.h.
READ: Final = 0b1101  # EXECUTE, READ_FILE, READ_DIR
WRITE_FILE: Final = 1 << 1
TRUNCATE: Final = 1 << 14
IOCTL_DEVICE: Final = 1 << 15
# The rights that each ABI added: 1 (Linux 5.13) bits 0 to 12, 2 (5.19) REFER, 3 (6.2), 5 (6.10).
_BY_ABI: Final = ((1, (1 << 13) - 1), (2, 1 << 13), (3, TRUNCATE), (5, IOCTL_DEVICE))
# The rights that make sense for a file; the others would be EINVAL in a rule on one.
_FILE_ONLY: Final = 1 | WRITE_FILE | 1 << 2 | TRUNCATE | IOCTL_DEVICE
NETWORK_FROM: Final = 4  # Linux 6.7
BIND_TCP: Final = 1
CONNECT_TCP: Final = 2
SCOPE_FROM: Final = 6  # Linux 6.12
SCOPE_ABSTRACT_SOCKETS: Final = 1
SCOPE_SIGNALS: Final = 2


# Process: runtime. landlock_restrict_self(2) needs no-new-privs or CAP_SYS_ADMIN in the user
# namespace. The domain is inherited by every child and by execve(2), and cannot be left.
def restrict(
    abi: int, *, readable: Iterable[str], writable: Iterable[str], devices: Iterable[str], connect_ports: Iterable[int]
) -> None:
    """Confine this thread, and all processes it will start, as far as `abi` goes."""
    rules = compose(abi, readable=readable, writable=writable, devices=devices, connect_ports=connect_ports)
    syscalls.landlock_restrict_self(rules)
    os.close(rules)


# Process: runtime; zygote, to warm up. A right that is handled and that no rule allows is refused,
# so an ABI's every right is handled. REFER is special: it is refused by default in any domain
# (landlock(7)), and allowed below `writable`.
def compose(
    abi: int, *, readable: Iterable[str], writable: Iterable[str], devices: Iterable[str], connect_ports: Iterable[int]
) -> int:
    """Return a descriptor of a ruleset, which restricts nothing until it is applied.

    Args:
        readable: trees to read and to execute from.
        writable: trees to do anything in but make devices.
        devices: single files to read and write.
        connect_ports: TCP ports that may be connected to; binding is refused altogether.
    """
    handled = 0
    for since, rights in _BY_ABI:
        handled |= rights if abi >= since else 0
    # struct landlock_ruleset_attr has grown; a kernel takes it as long as it knows its members.
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
            # LANDLOCK_RULE_NET_PORT: a port at every address, as a rule cannot name one.
            syscalls.landlock_add_rule(ruleset, 2, struct.pack("=QQ", CONNECT_TCP, port))
    return ruleset


# O_PATH opens without reading: the rule is about the file's place in the hierarchy, and holds for
# everything below it (LANDLOCK_RULE_PATH_BENEATH).
def _allow_path(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= _FILE_ONLY
        syscalls.landlock_add_rule(ruleset, 1, struct.pack("=Qi", rights, fd))
    finally:
        os.close(fd)
