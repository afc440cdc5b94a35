"""The seccomp filter, asked for every system call of both architectures by an interpreter of BPF."""

from __future__ import annotations

import errno
import itertools

import pytest

from worker.sandbox.zygote.isolation.seccomp import (
    _ALLOWED,
    _REFUSED,
    _REFUSED_UNDER_OWN_UID,
    _REFUSED_WITHOUT_NAMESPACES,
    ALLOW,
    AUDIT_ARCHITECTURE,
    ERRNO,
    KILL_PROCESS,
    FilterChoice,
    build_filter,
    interpret,
    syscall_numbers,
)

MACHINES = ("x86_64", "aarch64")
CHOICES = [FilterChoice(*flags) for flags in itertools.product((False, True), repeat=4)]
EPERM, EACCES, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.EACCES, ERRNO | errno.ENOSYS
PLAIN = FilterChoice()
CHECKED = {
    "clone",
    "clone3",
    "ioctl",
    "personality",
    "prctl",
    "socket",
    "socketpair",
    "memfd_create",
    "mmap",
    "prlimit64",
    "sched_setaffinity",
}


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def ask(machine: str, name: str, *arguments: int, choice: FilterChoice = PLAIN) -> int:
    return interpret(
        build_filter(choice, machine), syscall_numbers(machine)[name], AUDIT_ARCHITECTURE[machine], arguments
    )


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_number_has_the_action_of_its_name(machine: str, choice: FilterChoice) -> None:
    program = build_filter(choice, machine)
    names = {number: name for name, number in syscall_numbers(machine).items()}
    extra = set(() if choice.namespaces else _REFUSED_WITHOUT_NAMESPACES) | set(
        () if choice.other_uid else _REFUSED_UNDER_OWN_UID
    )
    for number in range(600):
        name = names.get(number, "")
        if name in CHECKED:
            continue
        expected = EPERM if name in extra or name in _REFUSED else ALLOW if name in _ALLOWED else ENOSYS
        assert interpret(program, number, AUDIT_ARCHITECTURE[machine]) == expected, name or number


def test_no_name_is_both_allowed_and_refused() -> None:
    assert not set(_ALLOWED) & set(_REFUSED)


def test_foreign_architectures_are_killed(machine: str) -> None:
    program = build_filter(FilterChoice(), machine)
    for architecture in (0x40000003, 0x40000028, 0xC000003E, 0xC00000B7, 0):
        if architecture != AUDIT_ARCHITECTURE[machine]:
            assert interpret(program, 0, architecture) == KILL_PROCESS


@pytest.mark.parametrize("number", [0x40000000, 0x40000027, 0x7FFFFFFF, 0xFFFFFFFF])
def test_x32_is_killed(number: int) -> None:
    assert interpret(build_filter(FilterChoice(), "x86_64"), number, AUDIT_ARCHITECTURE["x86_64"]) == KILL_PROCESS


@pytest.mark.parametrize("flag", [0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_makes_no_namespaces(machine: str, flag: int) -> None:
    assert ask(machine, "clone", flag | 17) == EPERM
    assert ask(machine, "clone", 17) == ALLOW
    assert ask(machine, "clone", 0x3D0F00) == ALLOW  # a thread
    assert ask(machine, "clone3", 0) == ENOSYS


def test_high_halves_of_arguments_hide_nothing(machine: str) -> None:
    """The kernel looks at 32 bits of these arguments, and so must the filter: what stands above may not change the answer."""
    high = 0xDEADBEEF << 32
    assert ask(machine, "clone", high | 0x10000000) == EPERM
    assert ask(machine, "socket", high | 17, 1, 0) == EACCES
    assert ask(machine, "ioctl", 0, high | 0x5412) == EPERM


def test_terminal_injection_is_refused(machine: str) -> None:
    assert ask(machine, "ioctl", 0, 0x5412) == EPERM
    assert ask(machine, "ioctl", 0, 0x5401) == ALLOW


def test_sockets_stay_inside(machine: str) -> None:
    for family in range(46):
        expected = ALLOW if family == 1 else EACCES
        assert ask(machine, "socket", family, 1, 0) == expected
        assert ask(machine, "socketpair", family, 1, 0) == expected
        assert ask(machine, "socket", family, 1, 0, choice=FilterChoice(namespaces=False)) == EACCES


def test_network_means_tcp_and_udp(machine: str) -> None:
    network = FilterChoice(network=True)
    for family in (2, 10):
        assert ask(machine, "socket", family, 1 | 0o2000000, 6, choice=network) == ALLOW
        assert ask(machine, "socket", family, 2, 17, choice=network) == ALLOW
        assert ask(machine, "socket", family, 3, 1, choice=network) == EACCES  # raw
        assert ask(machine, "socket", family, 1, 132, choice=network) == EACCES  # SCTP
    assert ask(machine, "socket", 40, 1, 0, choice=network) == EACCES  # vsock


def test_uncounted_memory_is_refused_where_no_cgroup_counts_it(machine: str) -> None:
    assert ask(machine, "mmap", 0, 4096, 3, 0x21) == ERRNO | errno.ENOMEM
    assert ask(machine, "mmap", 0, 4096, 3, 0x22) == ALLOW
    assert ask(machine, "mmap", 0, 4096, 3, 0x01) == ALLOW
    assert ask(machine, "memfd_create") == EPERM
    counted = FilterChoice(shared_memory=True)
    assert ask(machine, "mmap", 0, 4096, 3, 0x21, choice=counted) == ALLOW
    assert ask(machine, "memfd_create", choice=counted) == ALLOW


@pytest.mark.parametrize("namespaces", [True, False])
def test_a_process_may_limit_itself_alone(machine: str, namespaces: bool) -> None:
    choice = FilterChoice(namespaces=namespaces)
    assert ask(machine, "prlimit64", 0, choice=choice) == ALLOW
    assert ask(machine, "prlimit64", 4711, choice=choice) == EPERM
    assert ask(machine, "sched_setaffinity", 0, choice=choice) == ALLOW
    assert ask(machine, "sched_setaffinity", 4711, choice=choice) == (ALLOW if namespaces else EPERM)


def test_the_tree_is_short(machine: str) -> None:
    """Loading runs the filter for every number: a linear one of this size costs 0.8 ms per sandbox."""
    assert len(build_filter(FilterChoice(), machine)) // 8 < 400
