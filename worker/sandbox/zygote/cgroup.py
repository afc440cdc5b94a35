"""cgroups of the sandboxes of one zygote: limits on a sandbox as a whole, where the host lets us make any.

Knows: the files of cgroup v1 and v2. Does not know: what a sandbox is; slots are numbers.
"""

from __future__ import annotations

from typing import Any

from .plan import Limits


class Cgroups:
    """None here: every limit is an rlimit."""

    counts_memory = False

    def __init__(self, level: str, missing: tuple[str, ...]) -> None:
        self._level = level

    def describe(self) -> dict[str, Any]:
        return {"memory": "rlimit", "pids": "rlimit", "cpu": "none"}

    def enter_ready(self, slot: int, bounds: Limits) -> None:
        """Have a group with these limits ready for the slot."""

    def join(self, slot: int, pid: int) -> None:
        """Put a process, and with it its future children, into the slot's group."""

    def limit(self, slot: int, bounds: Limits) -> None:
        """Bring the slot's group to these limits."""

    def leave(self, slot: int) -> dict[str, Any]:
        """Read what the group counted and remove it."""
        return {}

    def close(self) -> None:
        """Remove what is left."""
