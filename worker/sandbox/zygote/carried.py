"""One sandbox, as the zygote sees it: numbers, descriptors, what was heard from inside. Knows nothing of how it was made."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field

from .plan import Limits


@dataclass(slots=True)
class Carried:
    number: int
    """The worker's name for it."""
    slot: int
    """Ours: uid, cgroup and home are derived from it; free again when the sandbox is gone."""
    bounds: Limits
    ini: socket.socket
    """To the trusted side inside; whoever holds the other end has not run a function."""
    pid: int = -1
    outward: tuple[int, ...] = ()
    """pidfd, the worker's ends of control, log and trace, then the door to the network if there is one; until the sandbox is ready."""
    ready: bool = False
    folders: list[str] = field(default_factory=list)
    """The bundle and, if there are any, the packages, as seen inside."""
    home: str = ""
    """Its folder to write in, where there is no mount namespace to make one in."""
    status: int | None = None
    """How the runtime's process ended, as PID 1 told it."""
    peak_kib: int = 0
    failure: str = ""

    def close(self) -> None:
        self.ini.close()
        self.close_outward()

    def close_outward(self) -> None:
        for fd in self.outward:
            os.close(fd)
        self.outward = ()
