"""Isolation features: their names, and which of them a receipt does not confirm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

NAMESPACES: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
_FLAGS: Final = ("own_uid", "seccomp", "no_new_privs")
_CGROUPS: Final = ("memory", "processes", "cpu")
"""In force only if a cgroup limits the whole sandbox; an rlimit limits each process by itself."""
FEATURES: Final = ("strict", *NAMESPACES, *_FLAGS, "landlock", *_CGROUPS)


def check_features(features: Iterable[str]) -> tuple[str, ...]:
    """Return the features, sorted and without duplicates.

    Raises:
        ValueError: a feature of that name does not exist.
    """
    checked = tuple(sorted(set(features)))
    for feature in checked:
        if feature not in FEATURES:
            raise ValueError(f"{feature[:80]!r} is not an isolation feature; the features are: {', '.join(FEATURES)}")
    return checked


def missing_features(required: Iterable[str], receipt: Mapping[str, Any]) -> list[str]:
    """Return those of the required features that the receipt does not confirm."""
    return [feature for feature in required if not _is_in_force(feature, receipt)]


def _is_in_force(feature: str, receipt: Mapping[str, Any]) -> bool:
    if feature == "strict":
        return receipt.get("level") == "strict"
    if feature in NAMESPACES:
        return feature in receipt.get("namespaces", ())
    if feature in _CGROUPS:
        return str(receipt.get(feature, "")).startswith("cgroup")
    if feature == "landlock":
        return int(receipt.get("landlock_abi", 0)) > 0
    return receipt.get(feature) is True
