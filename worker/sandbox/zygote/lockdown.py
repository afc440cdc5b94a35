"""The last trusted steps of the process that will hold a user's function, in the order that matters.

This is PID 2 (strict) or the only process (restricted). After `descend` nothing in it can be undone, and only the runtime follows.
Knows: the order of the walls. Does not know: namespaces, mounts, how the process came to be.
"""

from __future__ import annotations

# Without the enums of `signal`: each sandbox would touch, and so copy, their memory.
import _signal  # type: ignore[import-not-found]
import fcntl
import gc
import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, Final

from . import protocol, syscalls
from .isolation import capabilities, landlock
from .protocol import ZygoteConfig

CONTROL_FD: Final = 3
TRACE_FD: Final = 4
FIRST_FREE_FD: Final = 5
_ZYGOTE_SIGNALS: Final = (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGHUP)

ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    # One thread per numerical library and two malloc arenas: each further one reserves memory that RLIMIT_DATA counts.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


class Permissions:
    """Which paths and ports remain, and which filter closes the join_fd."""

    def __init__(
        self,
        *,
        readable: Sequence[str],
        writable: Sequence[str],
        devices: Sequence[str],
        connect_ports: Sequence[int],
        seccomp: bytes,
    ) -> None:
        self.readable = readable
        self.writable = writable
        self.devices = devices
        self.connect_ports = connect_ports
        self.seccomp = seccomp


def lock_down(permissions: Permissions, config: ZygoteConfig, home: str) -> dict[str, Any]:
    """Put up every wall that a process puts up around itself, seccomp last; what stands is read back from the kernel.

    Raises:
        OSError, PermissionError: a wall could not be put up; the caller must end the process without running anything else.
    """
    facts: dict[str, Any] = {}
    _prefer_for_oom_killer()
    if "capabilities" not in config.missing:
        capabilities.drop_all()
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    abi = 0 if "landlock" in config.missing else syscalls.landlock_abi()
    if abi:
        landlock.restrict(
            abi,
            readable=permissions.readable,
            writable=permissions.writable,
            devices=permissions.devices,
            connect_ports=permissions.connect_ports,
        )
    facts["landlock_abi"] = abi
    os.chdir(home)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if "seccomp" not in config.missing:
        syscalls.load_filter(permissions.seccomp)
    return facts | read_back()


def read_back() -> dict[str, Any]:
    """The walls around this thread, as the kernel reports them."""
    return {
        "capabilities": f"{syscalls.capget()[1]:#x}",
        "no_new_privs": syscalls.prctl(syscalls.PR_GET_NO_NEW_PRIVS) == 1,
        "securebits": syscalls.prctl(syscalls.PR_GET_SECUREBITS),
        "seccomp": syscalls.prctl(21)
        == 2,  # PR_GET_SECCOMP: 2 is a filter; with a strict mode filter this call would not return
        "uid": os.getuid(),
    }


def _prefer_for_oom_killer() -> None:
    """Among the processes of a full cgroup the function goes first, so that PID 1 lives to tell."""
    try:
        syscalls.write_file("/proc/self/oom_score_adj", b"1000")
    except OSError:
        # No /proc inside (a container that masks it): the kernel then takes the largest, which is the function in all but odd cases.
        return


def wait_for_start(zygote: socket.socket) -> tuple[socket.socket, protocol.Message]:
    """The order to go, when whatever had to be done from outside has been; descriptors and control group are as they shall be.

    Returns:
        The socket to the zygote where it is from now on, at `FIRST_FREE_FD`, and the order.
    """
    packet = protocol.receive(zygote)
    if packet is None:
        os._exit(0)  # the zygote went away
    order, (log, control, trace, *join_fds) = packet
    for join_fd in join_fds:
        # A single thread that moves itself takes no lock. Moving somebody else takes the one that every fork and exit of the machine holds
        # for reading, and waits 10 ms for an RCU grace period (cgroup_procs_write_start in kernel/cgroup/cgroup.c).
        os.write(join_fd, b"0")
    place_descriptors(log, control, trace, zygote.detach())
    return socket.socket(fileno=FIRST_FREE_FD), order


def place_descriptors(log: int, control: int, trace: int, *others: int) -> list[int]:
    """Descriptors 0 to 4 exactly as `runtimes/PROTOCOL.md` lists them, `others` from 5 on, and nothing else open."""
    null = os.open("/dev/null", os.O_RDWR)
    wanted = [null, log, log, control, trace, *others]
    lifted = [_move_high(fd) for fd in wanted]
    for number, fd in enumerate(lifted):
        os.dup2(fd, number, inheritable=number < FIRST_FREE_FD)
    syscalls.close_range(len(wanted), 0x7FFFFFFF)
    return list(range(FIRST_FREE_FD, len(wanted)))


def _move_high(fd: int) -> int:
    """A copy far above the numbers that are about to be assigned."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)


def reset_signals() -> None:
    """A forked process keeps the zygote's dispositions; a function starts with an ordinary program's."""
    _signal.set_wakeup_fd(-1)
    for number in _ZYGOTE_SIGNALS:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def prepare_environment(home: str) -> None:
    """Set the environment every function starts from; what a function's manifest adds comes later, and never here."""
    os.environ.clear()
    os.environ.update(ENVIRONMENT, HOME=home, TMPDIR=home)
    tempfile.tempdir = None  # the zygote's own is remembered there, and would be taken for the function's


def become_runtime(config: ZygoteConfig, zygote: socket.socket, command: Sequence[str], gate: int = -1) -> None:
    """Close the last trusted descriptor (executing does that by itself) and hand over to the runtime; never returns.

    Args:
        gate: an eventfd(2) that a Python runtime waits for and closes before it touches the bundle; -1 if the bundle is there.
    """
    if config.runtime == "python":
        zygote.close()
        gc.enable()
        random.seed()
        runtime = sys.modules["sandlot_runtime"]
        runtime.serve(control_fd=CONTROL_FD, trace_fd=TRACE_FD, gate_fd=gate)
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execve(command[0], list(command), dict(os.environ))  # noqa: S606 - no shell is wanted


def send_failure(zygote: socket.socket, error: BaseException) -> None:
    """Say why this sandbox cannot be, to the zygote, which kills it."""
    try:
        protocol.send(zygote, {"failed": f"{type(error).__name__}: {error}"})
    except OSError:
        return  # nobody listens: the sandbox was killed meanwhile
