"""The names of features, and which of them a receipt lacks.

Knows: what a receipt says of each feature. Does not know: manifests, workers, how a feature is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

NAMESPACES: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
_FLAGS: Final = ("own_uid", "seccomp", "no_new_privs")
_CGROUPS: Final = ("memory", "processes", "cpu")
"""Walls by these names stand where a cgroup bounds the whole sandbox; an rlimit bounds each process by itself."""
FEATURES: Final = ("strict", *NAMESPACES, *_FLAGS, "landlock", *_CGROUPS)


def check_features(features: Iterable[str]) -> tuple[str, ...]:
    """The features in order, each once.

    Raises:
        ValueError: there is no feature of that name.
    """
    checked = tuple(sorted(set(features)))
    for feature in checked:
        if feature not in FEATURES:
            raise ValueError(f"{feature[:80]!r} is not an isolation feature; the features are: {', '.join(FEATURES)}")
    return checked


def missing_features(required: Iterable[str], receipt: Mapping[str, Any]) -> list[str]:
    """Those of the required features that the receipt does not vouch for."""
    return [feature for feature in required if not _stands(feature, receipt)]


def _stands(feature: str, receipt: Mapping[str, Any]) -> bool:
    if feature == "strict":
        return receipt.get("level") == "strict"
    if feature in NAMESPACES:
        return feature in receipt.get("namespaces", ())
    if feature in _CGROUPS:
        return str(receipt.get(feature, "")).startswith("cgroup")
    if feature == "landlock":
        return int(receipt.get("landlock_abi", 0)) > 0
    return receipt.get(feature) is True
