"""Which walls a receipt vouches for."""

from __future__ import annotations

from typing import Any

import pytest

from sandlot.receipt import FEATURES, missing_features

STRICT: dict[str, Any] = {
    "level": "strict",
    "namespaces": ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"],
    "own_uid": True,
    "seccomp": True,
    "no_new_privs": True,
    "landlock_abi": 7,
    "memory": "cgroup v1",
    "processes": "cgroup v2",
    "cpu": "cgroup v1",
}


def test_a_full_receipt_lacks_nothing_and_an_empty_one_everything() -> None:
    assert missing_features(FEATURES, STRICT) == []
    assert missing_features(FEATURES, {}) == list(FEATURES)


@pytest.mark.parametrize(
    ("wall", "changed"),
    [
        ("strict", {"level": "restricted"}),
        ("time", {"namespaces": ["user"]}),
        ("own_uid", {"own_uid": False}),
        ("seccomp", {"seccomp": False}),
        ("landlock", {"landlock_abi": 0}),
        ("memory", {"memory": "rlimit"}),
        ("cpu", {"cpu": "none"}),
    ],
)
def test_a_feature_that_does_not_hold_is_missing(wall: str, changed: dict[str, Any]) -> None:
    assert missing_features([wall], STRICT | changed) == [wall]
