"""The last trusted steps of the process that will run a user's function, in the order that matters.

That process is PID 2 at the strict level and the only process at the restricted one. Nothing that
`lock_down` does can be undone in it, and only the runtime follows.
"""

from __future__ import annotations

# Without the enums of `signal`: each sandbox would write to, and so copy, their memory.
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
    # One thread per numerical library and two malloc arenas: each further one reserves memory that
    # RLIMIT_DATA counts.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


class Permissions:
    """The paths and ports that remain to a sandbox, and the seccomp filter that is loaded last."""

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


# Process: runtime. The order matters:
#
# - oom_score_adj is written while this process may still open its own files below /proc/self, which
#   belong to root once it is not dumpable (proc(5));
# - landlock_restrict_self(2) and seccomp(2) need no-new-privs or CAP_SYS_ADMIN, which is gone;
# - Landlock is applied before chdir(2), which it does not govern (landlock(7));
# - PR_SET_DUMPABLE 0 keeps processes of the same uid from ptrace(2) and from /proc/pid/mem;
# - the filter comes last: it refuses calls that the steps before it need, such as capset(2).
def lock_down(permissions: Permissions, config: ZygoteConfig, home: str) -> dict[str, Any]:
    """Apply every layer that a process applies to itself, seccomp last.

    Returns:
        The layers in force, as the kernel reports them.

    Raises:
        OSError, PermissionError: a layer could not be applied; the caller must end the process
            without running anything else.
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


# Process: runtime, after lock_down; the zygote too, to warm up. All of these calls pass the filter.
# Capabilities, no-new-privs, securebits and the filter belong to a thread, and this process has
# one.
def read_back() -> dict[str, Any]:
    """Return the layers around this thread, as the kernel reports them."""
    return {
        "capabilities": f"{syscalls.capget()[1]:#x}",
        "no_new_privs": syscalls.prctl(syscalls.PR_GET_NO_NEW_PRIVS) == 1,
        "securebits": syscalls.prctl(syscalls.PR_GET_SECUREBITS),
        # PR_GET_SECCOMP: 2 is a filter; in seccomp's strict mode, 1, this call kills the caller.
        "seccomp": syscalls.prctl(21) == 2,
        "uid": os.getuid(),
    }


# Process: runtime. proc(5), /proc/pid/oom_score_adj: 1000 is the most; raising needs no privilege.
# A cgroup of v2 is killed as a whole (memory.oom.group), and its counters report it.
def _prefer_for_oom_killer() -> None:
    """Make the function the first victim in a full cgroup, so that init lives to report it."""
    try:
        syscalls.write_file("/proc/self/oom_score_adj", b"1000")
    except OSError:
        # A sandbox has no /proc where a container masks its own. The kernel then kills the largest
        # process, which is the function in all but odd cases.
        return


# Process: init (strict), the only process (restricted).
def wait_for_start(zygote: socket.socket) -> tuple[socket.socket, protocol.Message]:
    """Wait for the zygote's message to start; then place the descriptors and join the cgroups.

    The zygote sends it when everything that must be done from outside has been.

    Returns:
        The socket to the zygote, from now on at `FIRST_FREE_FD`, and the message.
    """
    packet = protocol.receive(zygote)
    if packet is None:
        os._exit(0)  # the zygote went away
    order, (log, control, trace, *join_fds) = packet
    for join_fd in join_fds:
        # "0" is the writing thread itself. A single thread that moves itself takes no lock. Moving
        # another process takes the one that every fork and exit of the machine holds for reading,
        # and waits 10 ms for an RCU grace period (cgroup_procs_write_start in
        # kernel/cgroup/cgroup.c).
        os.write(join_fd, b"0")
    place_descriptors(log, control, trace, zygote.detach())
    return socket.socket(fileno=FIRST_FREE_FD), order


# Process: init (strict), the only process (restricted). dup2(2) closes its target silently, so
# every source is first moved out of the target range. close_range(2) then closes the rest by
# number, the zygote's and the moved copies alike.
def place_descriptors(log: int, control: int, trace: int, *others: int) -> list[int]:
    """Arrange the open descriptors as `runtimes/PROTOCOL.md` lists them, and close all others.

    Descriptors 0 to 4 are inherited by an executed runtime; `others` follow from 5 on,
    close-on-exec.
    """
    null = os.open("/dev/null", os.O_RDWR)
    wanted = [null, log, log, control, trace, *others]
    high = [_move_high(fd) for fd in wanted]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=number < FIRST_FREE_FD)
    syscalls.close_range(len(wanted), 0x7FFFFFFF)
    return list(range(FIRST_FREE_FD, len(wanted)))


# fcntl(2), F_DUPFD_CLOEXEC: the lowest free descriptor that is at least 64.
def _move_high(fd: int) -> int:
    """Return a copy of a descriptor, far above the numbers that are about to be assigned."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)


# Process: init (strict), the only process (restricted). fork(2) copies the dispositions and
# Python's wake-up descriptor, to which a signal would write: its number means another file in a
# moment.
def reset_signals() -> None:
    """Replace the zygote's signal dispositions by those of an ordinary program."""
    _signal.set_wakeup_fd(-1)
    for number in _ZYGOTE_SIGNALS:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)


# Process: zygote, for all sandboxes; the only process (restricted) once more, for its own home.
def prepare_environment(home: str) -> None:
    """Set the environment that every function starts from.

    The variables of a function's manifest come later, and never here.
    """
    os.environ.clear()
    os.environ.update(ENVIRONMENT, HOME=home, TMPDIR=home)
    tempfile.tempdir = None  # it caches the zygote's own folder, which the function would use


# Process: runtime. execve(2) closes the close-on-exec descriptors, the zygote's socket and the gate
# among them; keeps the filter, the Landlock domain, the rlimits and the cgroups; and makes the
# process dumpable again, which ptrace(2) cannot use as the filter refuses it. Dispositions set to
# SIG_IGN would survive execve (signal(7)), and Python ignores SIGPIPE and SIGXFSZ.
def become_runtime(config: ZygoteConfig, zygote: socket.socket, command: Sequence[str], gate: int = -1) -> None:
    """Close the last trusted descriptor, the socket to the zygote, and run the runtime.

    Never returns.

    Args:
        command: executed unless the runtime is Python, which is already loaded.
        gate: an eventfd(2) that a Python runtime waits for, and closes, before it touches the
            bundle; -1 if the bundle is there.
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


# Process: init or runtime, before the runtime runs.
def send_failure(zygote: socket.socket, error: BaseException) -> None:
    """Send the reason why this sandbox cannot start to the zygote, which kills it."""
    try:
        protocol.send(zygote, {"failed": f"{type(error).__name__}: {error}"})
    except OSError:
        return  # the zygote has closed its end: the sandbox was killed meanwhile
