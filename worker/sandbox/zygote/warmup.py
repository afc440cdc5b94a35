"""Run in the zygote, before it forks, the code that every sandbox runs after the fork.

Code that runs for the first time writes memory: instructions that the interpreter specialises (PEP
659), functions that ctypes looks up, caches. Written in the zygote, those pages are shared; written
in a sandbox, each costs a copy and the time to make it. Only calls that read, or that undo what
they did, can be rehearsed: the isolation layers themselves cannot be tried on.
"""

from __future__ import annotations

import os
import random
import resource
import socket
from typing import Final

from . import lockdown, protocol, strict_init, syscalls
from .isolation import landlock
from .protocol import Limits, read_limits

ROUNDS: Final = 20
"""Well above the 8 calls after which CPython 3.11 begins to specialise a function."""
_LIMITS: Final = Limits(
    memory_limit_mib=1, processes=1, cpu_limit_s=None, open_files=1, tmp_mib=1, network=False, cpus=1.0
)


# Process: zygote, once, before the fork server starts. A Landlock ruleset restricts nothing until
# landlock_restrict_self(2), so composing and closing one is harmless.
def warm_up() -> None:
    """Call the sandboxes' start-up code often enough for the interpreter to specialise it."""
    abi = syscalls.landlock_abi()
    for _ in range(ROUNDS):
        _exchange_messages()
        strict_init.namespace_ids(children=True)
        lockdown.read_back()
        syscalls.write_file("/dev/null", b"0")
        resource.prlimit(0, resource.RLIMIT_CORE)
        random.seed()
        if abi:
            os.close(landlock.compose(abi, readable=["/"], writable=["/"], devices=["/dev/null"], connect_ports=[]))


# Process: zygote. The same messages, with as many descriptors, as between zygote and init.
def _exchange_messages() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, socket.socket(fileno=theirs.detach()) as inside:
        protocol.send(ours, {"limits": _LIMITS._asdict()}, (0, 1, 2))
        packet = protocol.receive(inside)
        if packet is not None:
            read_limits(packet[0]["limits"])
            for fd in packet[1]:
                os.close(fd)
        protocol.send(inside, {"ready": {"namespaces": ["user"], "proc": True, "landlock_abi": 1}})
