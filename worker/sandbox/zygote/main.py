"""The zygote: one quiet process per runtime that sandboxes are forked from.

Knows: which sandboxes it carries, and the worker's requests. Does not know: what happens inside one, how its level walls it in.
One thread, no secret, no function. When the worker goes away, everything here ends.
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


class Zygote:
    """Spawns, hands over bundles, reaps and tells."""

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

    def open(self) -> dict[str, Any]:
        """Load the runtime, build what all sandboxes share; returns what the worker should know."""
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
        """Until the worker closes its end.

        Raises:
            ForkServerGone: there will be no further sandbox.
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
        """Kill what is left, reap it, and remove what was made for it."""
        for child in self._children.values():
            self._kill(child)
        while self._children:
            self._reap(blocking=True)
        self._cgroups.close()
        self._level.close()

    def _on_request(self) -> bool:
        try:
            packet = protocol.receive(self._worker)
        except ConnectionResetError:  # it went away with something of ours unread
            packet = None
        if packet is None:
            return False
        message, _descriptors = packet
        number = message["id"]
        if message["do"] == "spawn":
            self._spawn(number, read_limits(message["limits"]))
        elif number in self._children:  # else it ended while the request was under way, and the worker has been told
            self._attach(self._children[number], message)
        return True

    # Starting.

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
        try:
            self._cgroups.join(child.slot, child.pid)
            self._level.map_ids(child)
            order = {"limits": child.limits._asdict()}
            protocol.send(child.init_socket, order, (*inside, *self._cgroups.join_fds(child.slot)))
        except OSError as error:
            child.failure = str(error)
            self._kill(child)

    # Between start and end.

    def _attach(self, child: Child, message: protocol.Message) -> None:
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
        """A word from inside, all of it said before any function of a user runs there, or by PID 1."""
        if child.init_socket.fileno() < 0:
            return  # reaped by an earlier event of the same round
        try:
            packet = protocol.receive(child.init_socket)
        except ConnectionResetError:
            packet = None
        if packet is None:
            self._selector.unregister(child.init_socket)  # its end will come as SIGCHLD
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

    def _kill(self, child: Child) -> None:
        try:
            self._level.kill(child)
        except ProcessLookupError:
            return  # it ended by itself meanwhile

    def _reap(self, *, blocking: bool = False) -> None:
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
            self._kill(
                child
            )  # before it is reaped, so that the number is still its own: nothing of it may outlive its first process
            _pid, status, usage = os.wait4(found.si_pid, 0)
            self._finish(child, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)

    def _finish(self, child: Child, status: int, cpu_s: float, peak_kib: int) -> None:
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
                child.failure or f"its first process ended without a word: status {os.waitstatus_to_exitcode(status)}"
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
        return  # the worker is gone, perhaps while it started; the next read says so, and this process ends


def _has_more(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except (BlockingIOError, ConnectionResetError):
        return False


def main() -> None:
    """Started by the worker with the folder above this package and the number of its socket as arguments."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C is the worker's to act on; we end when it does
    sys.path.remove(sys.argv[1])
    # A sandbox costs up to five descriptors here; those it gets itself are limited anew.
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
        told = zygote.open()
    except (OSError, ImportError) as error:
        _send(worker, {"unavailable": f"{type(error).__name__}: {error}"})
        return
    _send(worker, {"open": told})
    with contextlib.suppress(ForkServerGone):  # the worker hears of our end, and starts another
        zygote.serve()
    zygote.close()
