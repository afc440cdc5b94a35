"""The worker container's seccomp profile is what the sandbox and its launcher need, and says no where it matters."""

from __future__ import annotations

import errno
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from worker.sandbox.zygote.isolation.seccomp import ERRNO, FilterChoice, syscall_numbers

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return json.loads((DEPLOY / "worker-seccomp.json").read_text())


@pytest.fixture(scope="module")
def generated() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("deploy_seccomp", DEPLOY / "seccomp.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.profile()


def names(profile: dict[str, Any], action: str, **fields: object) -> set[str]:
    return {
        name
        for rule in profile["syscalls"]
        if rule["action"] == action and all(rule.get(key) == value for key, value in fields.items())
        for name in rule["names"]
    }


def test_the_profile_in_the_repository_is_the_one_the_script_makes(
    committed: dict[str, Any], generated: dict[str, Any]
) -> None:
    assert committed == generated, "run: python deploy/seccomp.py > deploy/worker-seccomp.json"


def test_a_strict_sandbox_can_be_built(committed: dict[str, Any]) -> None:
    """Each of these was missing from some engine's own profile, and each alone makes a strict worker refuse to start."""
    needed = {"unshare", "clone", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr"}
    needed |= {"sethostname", "setresuid", "setgroups", "capset", "seccomp", "landlock_restrict_self"}
    assert needed <= names(committed, "SCMP_ACT_ALLOW", args=None)


def test_a_thread_can_still_be_started_where_clone3_is_refused(committed: dict[str, Any]) -> None:
    """EPERM would be final for the C library; only "no such call" makes it fall back to clone(2)."""
    unknown = names(committed, "SCMP_ACT_ERRNO", errnoRet=errno.ENOSYS)
    assert {"clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"} <= unknown
    assert committed["defaultErrnoRet"] == errno.ENOSYS


def test_system_calls_that_only_attackers_need_are_refused(committed: dict[str, Any]) -> None:
    dangerous = {"ptrace", "process_vm_readv", "process_vm_writev", "bpf", "perf_event_open", "userfaultfd", "keyctl"}
    dangerous |= {"add_key", "kexec_load", "init_module", "finit_module", "open_by_handle_at", "setns", "chroot"}
    dangerous |= {"mknod", "reboot", "swapon", "syslog", "acct", "pidfd_getfd", "fsopen", "io_uring_setup"}
    assert not dangerous & names(committed, "SCMP_ACT_ALLOW")


def test_nothing_is_both_allowed_and_refused(committed: dict[str, Any]) -> None:
    assert not names(committed, "SCMP_ACT_ALLOW") & names(committed, "SCMP_ACT_ERRNO")


def test_every_name_is_a_system_call(committed: dict[str, Any]) -> None:
    known = {name for machine in ("x86_64", "aarch64") for name in syscall_numbers(machine)}
    assert names(committed, "SCMP_ACT_ALLOW") | names(committed, "SCMP_ACT_ERRNO") <= known


def test_a_foreign_abi_is_not_let_in(committed: dict[str, Any]) -> None:
    assert [machine["subArchitectures"] for machine in committed["archMap"]] == [[], []]


def test_the_profile_is_made_from_the_widest_filter_of_a_sandbox() -> None:
    """A choice added to the sandbox's filter has to be thought of in deploy/seccomp.py, which names each of these."""
    assert FilterChoice._fields == ("network", "namespaces", "other_uid", "shared_memory")
    assert ERRNO | errno.EPERM == 0x50001
