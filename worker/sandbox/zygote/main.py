"""The zygote: one process per runtime that starts sandboxes, reaps them and reports to the worker.

It has one thread, no secret and no function. It ends when the worker closes its socket, and every
sandbox ends with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import selectors
import signal
import socket
import sys
from typing import Any, Final

from . import lockdown, protocol, runtime, syscalls, warmup
from .fork_server import ForkServerGone
from .isolation.cgroup import Cgroups, NoCgroups
from .isolation.cgroup_v1 import open_cgroups_v1
from .isolation.cgroup_v2 import open_cgroups_v2
from .level import Child, Level
from .protocol import HOME_PATH, Limits, ZygoteConfig, read_config, read_limits
from .restricted_level import RestrictedLevel
from .strict_level import StrictLevel

_WORKER: Final = "worker"
_CHILDREN: Final = "children"


# Process: zygote, all of this module.
class Zygote:
    """The sandboxes of one runtime, and the socket to the worker that asks for them."""

    def __init__(self, worker: socket.socket, config: ZygoteConfig) -> None:
        self._worker = worker
        self._config = config
        self._level: Level = StrictLevel(config) if config.level == "strict" else RestrictedLevel(config)
        self._cgroups: Cgroups = NoCgroups()
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)

    # Everything that writes memory comes before finish_setup, which at the strict level forks the
    # fork server: from then on a page written here is no longer shared with the sandboxes.
    #
    # gc.freeze() moves all objects to the permanent generation, so that a collection in a sandbox
    # does not touch, and so copy, the pages of every object here.
    #
    # set_wakeup_fd makes a SIGCHLD readable; the handler has to exist, as the default action of
    # SIGCHLD is to be ignored (signal(7)), but needs to do nothing.
    def open(self) -> dict[str, Any]:
        """Load the runtime and build the parts that all sandboxes share.

        Returns:
            The facts about this machine that the worker reports.
        """
        runtime.load(self._config)
        self._level.open()
        if "cgroups" not in self._config.missing:
            self._cgroups = open_cgroups_v2() or open_cgroups_v1() or NoCgroups()
        lockdown.prepare_environment(HOME_PATH)
        warmup.warm_up()
        gc.collect()
        gc.disable()
        gc.freeze()
        self._level.finish_setup(memory_counted=self._cgroups.counts_memory)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._selector.register(self._worker, selectors.EVENT_READ, _WORKER)
        self._selector.register(self._wake, selectors.EVENT_READ, _CHILDREN)
        return {"landlock_abi": syscalls.landlock_abi(), "cgroups": self._cgroups.describe()}

    def serve(self) -> None:
        """Handle requests and exits until the worker closes its end.

        Raises:
            ForkServerGone: no further sandbox can be started.
        """
        while True:
            for key, _events in self._selector.select():
                if key.data == _WORKER:
                    if not self._on_request():
                        return
                elif key.data == _CHILDREN:
                    self._wake.recv(4096)
                    self._reap()
                else:
                    self._on_child_message(key.data)

    def close(self) -> None:
        """Kill the sandboxes that are left, reap them, and remove what was made for them."""
        for child in self._children.values():
            self._kill(child)
        while self._children:
            self._reap(blocking=True)
        self._cgroups.close()
        self._level.close()

    def _on_request(self) -> bool:
        """Carry out one request of the worker; return False if the worker is gone."""
        try:
            packet = protocol.receive(self._worker)
        except ConnectionResetError:  # the worker went away with a message of ours unread (unix(7))
            packet = None
        if packet is None:
            return False
        message, _descriptors = packet
        number = message["id"]
        if message["do"] == "spawn":
            self._spawn(number, read_limits(message["limits"]))
        elif number in self._children:  # else it ended meanwhile, and that message is on its way
            self._attach(self._children[number], message)
        return True

    # Starting.

    # A SOCK_SEQPACKET pair, one per sandbox. Its end inside is closed before the runtime takes
    # over. A slot is the lowest number that is free, so that uids and cgroups are used again.
    def _spawn(self, number: int, limits: Limits) -> None:
        taken = {child.slot for child in self._children.values()}
        slot = next(index for index in range(len(taken) + 1) if index not in taken)
        try:
            init_socket, init_socket_inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._send({"id": number, "failed": str(error)})
            return
        child = Child(number, slot, limits, init_socket)
        try:
            self._start(child, init_socket_inside)
        except OSError as error:
            child.close()
            self._cgroups.leave(slot)
            self._send({"id": number, "failed": str(error)})

    # The five descriptors that runtimes/PROTOCOL.md lists come from here: a stream socket pair for
    # control, and one pipe each for log and trace. The process waits for them at its init socket,
    # so it joins its cgroups and has its ids mapped before it does anything else.
    #
    # pidfd_open(2): the child has not been reaped, so its pid is its own and the descriptor refers
    # to this process for good.
    def _start(self, child: Child, init_socket_inside: socket.socket) -> None:
        control, control_inside = socket.socketpair()
        log, log_inside = os.pipe()
        trace, trace_inside = os.pipe()
        inside = (log_inside, control_inside.detach(), trace_inside)
        child.worker_fds = (control.detach(), log, trace)
        try:
            self._cgroups.prepare(child.slot, child.limits)
            with init_socket_inside:
                child.pid = self._level.fork(child, init_socket_inside.fileno())
            child.worker_fds = (os.pidfd_open(child.pid), *child.worker_fds)
            self._children[child.number] = child
            self._selector.register(child.init_socket, selectors.EVENT_READ, child)
            self._release(child, inside)
        finally:
            for fd in inside:
                os.close(fd)

    def _release(self, child: Child, inside: tuple[int, int, int]) -> None:
        """Let the new process go on: cgroup, ids, then the message with its descriptors."""
        try:
            self._cgroups.join(child.slot, child.pid)
            self._level.map_ids(child)
            order = {"limits": child.limits._asdict()}
            protocol.send(child.init_socket, order, (*inside, *self._cgroups.join_fds(child.slot)))
        except OSError as error:
            child.failure = str(error)
            self._kill(child)

    # Between start and end.

    # The cgroup's limits change here and not inside, because a sandbox has no cgroup file system.
    # Its rlimits change inside, by prlimit(2): the values are sent along.
    def _attach(self, child: Child, message: protocol.Message) -> None:
        """Give a sandbox its bundle and its function's limits."""
        limits = read_limits(message["limits"])
        descriptors: tuple[int, ...] = ()
        try:
            self._cgroups.limit(child.slot, limits)
            child.folders, descriptors = self._level.share_folders(message["paths"])
            order = {
                "limits": message["limits"],
                "tmp_changed": limits.tmp_mib != child.limits.tmp_mib,
                "memory_counted": self._cgroups.counts_memory,
                "paths": child.folders,
            }
            protocol.send(child.init_socket, order, descriptors)
        except OSError as error:
            self._send({"id": child.number, "refused": str(error)})
        finally:
            for fd in descriptors:
                os.close(fd)

    def _on_child_message(self, child: Child) -> None:
        """Handle a message from inside.

        It comes from init, or from the runtime's process before any function of a user runs there.
        """
        if child.init_socket.fileno() < 0:
            return  # reaped by an earlier event of the same select()
        try:
            packet = protocol.receive(child.init_socket)
        except ConnectionResetError:
            packet = None
        if packet is None:
            self._selector.unregister(child.init_socket)  # SIGCHLD will report its exit
            return
        message, descriptors = packet
        if "ready" in message:
            self._send_ready(child, message["ready"])
        elif "proxy_socket" in message:
            child.worker_fds += tuple(descriptors)
        elif "attached" in message:
            self._send({"id": child.number, "paths": child.folders, **message})
        elif "ended" in message:
            child.status, child.peak_kib = message["ended"], message["peak_kib"]
        elif "failed" in message:
            child.failure = message["failed"]
            self._kill(child)

    def _send_ready(self, child: Child, facts: dict[str, Any]) -> None:
        facts |= self._cgroups.describe()
        facts |= {
            "level": self._config.level,
            "network": "proxy" if child.limits.network else "none",
            "own_uid": bool(self._config.uid_base),
        }
        self._send({"id": child.number, "ready": facts, "pid": child.pid}, child.worker_fds)
        child.close_worker_fds()
        child.ready = True

    def _send(self, message: protocol.Message, descriptors: tuple[int, ...] = ()) -> None:
        _send(self._worker, message, descriptors)

    # Ending.

    # kill(2): a zombie takes a signal without an error. ESRCH is left for a failure that was sent
    # just before the exit, and is read in _finish after the reaping.
    def _kill(self, child: Child) -> None:
        try:
            self._level.kill(child)
        except ProcessLookupError:
            return  # it has ended

    # wait(2): WNOWAIT leaves the process a zombie, so its pid and its process group's number cannot
    # be given to another process before the kill. Only wait4(2) then frees the pid, and returns the
    # rusage of this one child.
    #
    # P_ALL, and not one child after the other: at the restricted level the zygote is a subreaper
    # (prctl(2), PR_SET_CHILD_SUBREAPER) and orphans of sandboxes become its children.
    def _reap(self, *, blocking: bool = False) -> None:
        """Reap every child that has ended; with `blocking`, wait until all sandboxes have."""
        flags = os.WEXITED | os.WNOWAIT | (0 if blocking else os.WNOHANG)
        by_pid = {child.pid: child for child in self._children.values()}
        while by_pid or not blocking:
            try:
                found = os.waitid(os.P_ALL, 0, flags)
            except ChildProcessError:
                return
            if found is None:
                return
            child = by_pid.pop(found.si_pid, None)
            if child is None:
                os.waitpid(found.si_pid, 0)
                self._level.on_other_exit(found.si_pid)
                continue
            self._kill(child)  # nothing in a sandbox may outlive its first process
            _pid, status, usage = os.wait4(found.si_pid, 0)
            self._finish(child, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)

    # Init sends its report and exits, so the report may still be in the socket when the exit is
    # seen.
    def _finish(self, child: Child, status: int, cpu_s: float, peak_kib: int) -> None:
        """Report the end of a sandbox whose first process was reaped, and free its slot."""
        while child.init_socket.fileno() in self._selector.get_map() and _has_more(child.init_socket):
            self._on_child_message(child)
        if child.init_socket.fileno() in self._selector.get_map():
            self._selector.unregister(child.init_socket)
        del self._children[child.number]
        child.close()
        ended = self._level.on_exit(child, status)
        counted = self._cgroups.leave(child.slot)
        if not child.ready:
            reason = (
                child.failure or f"its first process ended without a report: status {os.waitstatus_to_exitcode(status)}"
            )
            self._send({"id": child.number, "failed": reason})
            return
        end = {
            "id": child.number,
            "ended": None if ended is None else os.waitstatus_to_exitcode(ended),
            "cpu_ms": round(cpu_s * 1000, 3),
            "peak_bytes": max(peak_kib, child.peak_kib) * 1024,
            "failure": child.failure,
        }
        self._send(end | counted)


def _send(worker: socket.socket, message: protocol.Message, descriptors: tuple[int, ...] = ()) -> None:
    try:
        protocol.send(worker, message, descriptors)
    except (BrokenPipeError, ConnectionResetError):
        return  # the worker is gone, perhaps while it started; the next read ends this process


def _has_more(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except (BlockingIOError, ConnectionResetError):
        return False


def main() -> None:
    """Run the zygote.

    The worker passes two arguments: the folder above this package and the number of its socket.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the worker acts on them; the zygote ends with it
    sys.path.remove(sys.argv[1])
    # A sandbox costs up to five descriptors here, its init socket and its cgroups' files, and ten
    # more while it starts. The soft limit is often 1024; raising it to the hard one needs no
    # privilege (setrlimit(2)). Sandboxes get limits of their own.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    worker = socket.socket(fileno=int(sys.argv[2]))
    worker.set_inheritable(False)
    try:
        packet = protocol.receive(worker)
    except ConnectionResetError:
        packet = None
    if packet is None:
        return
    zygote = Zygote(worker, read_config(packet[0]))
    try:
        facts = zygote.open()
    except (OSError, ImportError) as error:
        _send(worker, {"unavailable": f"{type(error).__name__}: {error}"})
        return
    _send(worker, {"open": facts})
    with contextlib.suppress(ForkServerGone):  # the worker sees the end, and starts another zygote
        zygote.serve()
    zygote.close()
