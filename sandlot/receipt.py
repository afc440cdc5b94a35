"""The names of walls, and which of them a receipt lacks.

Knows: what a receipt says of each wall. Does not know: manifests, workers, how a wall is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

NAMESPACES: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
_FLAGS: Final = ("own_uid", "seccomp", "no_new_privs")
_CGROUPS: Final = ("memory", "processes", "cpu")
"""Walls by these names stand where a cgroup bounds the whole sandbox; an rlimit bounds each process by itself."""
WALLS: Final = ("strict", *NAMESPACES, *_FLAGS, "landlock", *_CGROUPS)


def check_walls(walls: Iterable[str]) -> tuple[str, ...]:
    """The walls in order, each once.

    Raises:
        ValueError: there is no wall of that name.
    """
    checked = tuple(sorted(set(walls)))
    for wall in checked:
        if wall not in WALLS:
            raise ValueError(f"{wall[:80]!r} is no wall; known are: {', '.join(WALLS)}")
    return checked


def missing_walls(required: Iterable[str], receipt: Mapping[str, Any]) -> list[str]:
    """Those of the required walls that the receipt does not vouch for."""
    return [wall for wall in required if not _stands(wall, receipt)]


def _stands(wall: str, receipt: Mapping[str, Any]) -> bool:
    if wall == "strict":
        return receipt.get("level") == "strict"
    if wall in NAMESPACES:
        return wall in receipt.get("namespaces", ())
    if wall in _CGROUPS:
        return str(receipt.get(wall, "")).startswith("cgroup")
    if wall == "landlock":
        return int(receipt.get("landlock_abi", 0)) > 0
    return receipt.get(wall) is True
