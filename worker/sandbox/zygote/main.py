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
from .protocol import HOME_PATH, Limits, Plan, read_limits, read_plan
from .restricted_level import RestrictedLevel
from .strict_level import StrictLevel

_WORKER: Final = "worker"
_CHILDREN: Final = "children"


class Zygote:
    """Spawns, hands over bundles, reaps and tells."""

    def __init__(self, worker: socket.socket, plan: Plan) -> None:
        self._worker = worker
        self._plan = plan
        self._level: Level = StrictLevel(plan) if plan.level == "strict" else RestrictedLevel(plan)
        self._cgroups: Cgroups = NoCgroups()
        self._carried: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)

    def open(self) -> dict[str, Any]:
        """Load the runtime, build what all sandboxes share; returns what the worker should know."""
        runtime.load(self._plan)
        self._level.open()
        if "cgroups" not in self._plan.missing:
            self._cgroups = open_cgroups_v2() or open_cgroups_v1() or NoCgroups()
        lockdown.prepare_environment(HOME_PATH)
        warmup.rehearse()
        gc.collect()
        gc.disable()
        gc.freeze()
        self._level.settle(counted=self._cgroups.counts_memory)
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
                    if not self._obey():
                        return
                elif key.data == _CHILDREN:
                    self._wake.recv(4096)
                    self._reap()
                else:
                    self._hear(key.data)

    def close(self) -> None:
        """Kill what is left, reap it, and remove what was made for it."""
        for carried in self._carried.values():
            self._kill(carried)
        while self._carried:
            self._reap(blocking=True)
        self._cgroups.close()
        self._level.close()

    def _obey(self) -> bool:
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
        elif number in self._carried:  # else it ended while the request was under way, and the worker has been told
            self._attach(self._carried[number], message)
        return True

    # Starting.

    def _spawn(self, number: int, bounds: Limits) -> None:
        taken = {carried.slot for carried in self._carried.values()}
        slot = next(index for index in range(len(taken) + 1) if index not in taken)
        try:
            ini, ini_inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._tell({"id": number, "failed": str(error)})
            return
        carried = Child(number, slot, bounds, ini)
        try:
            self._start(carried, ini_inside)
        except OSError as error:
            carried.close()
            self._cgroups.leave(slot)
            self._tell({"id": number, "failed": str(error)})

    def _start(self, carried: Child, ini_inside: socket.socket) -> None:
        control, control_inside = socket.socketpair()
        log, log_inside = os.pipe()
        trace, trace_inside = os.pipe()
        inside = (log_inside, control_inside.detach(), trace_inside)
        carried.outward = (control.detach(), log, trace)
        try:
            self._cgroups.prepare(carried.slot, carried.bounds)
            with ini_inside:
                carried.pid = self._level.fork(carried, ini_inside.fileno())
            carried.outward = (os.pidfd_open(carried.pid), *carried.outward)
            self._carried[carried.number] = carried
            self._selector.register(carried.ini, selectors.EVENT_READ, carried)
            self._let_go(carried, inside)
        finally:
            for fd in inside:
                os.close(fd)

    def _let_go(self, carried: Child, inside: tuple[int, int, int]) -> None:
        try:
            self._cgroups.join(carried.slot, carried.pid)
            self._level.admit(carried)
            order = {"limits": carried.bounds._asdict()}
            protocol.send(carried.ini, order, (*inside, *self._cgroups.doors(carried.slot)))
        except OSError as error:
            carried.failure = str(error)
            self._kill(carried)

    # Between start and end.

    def _attach(self, carried: Child, message: protocol.Message) -> None:
        bounds = read_limits(message["limits"])
        descriptors: tuple[int, ...] = ()
        try:
            self._cgroups.limit(carried.slot, bounds)
            carried.folders, descriptors = self._level.hand_over(message["paths"])
            order = {
                "limits": message["limits"],
                "tmp_changed": bounds.tmp_mib != carried.bounds.tmp_mib,
                "counted": self._cgroups.counts_memory,
                "paths": carried.folders,
            }
            protocol.send(carried.ini, order, descriptors)
        except OSError as error:
            self._tell({"id": carried.number, "refused": str(error)})
        finally:
            for fd in descriptors:
                os.close(fd)

    def _hear(self, carried: Child) -> None:
        """A word from inside, all of it said before any function of a user runs there, or by PID 1."""
        if carried.ini.fileno() < 0:
            return  # reaped by an earlier event of the same round
        try:
            packet = protocol.receive(carried.ini)
        except ConnectionResetError:
            packet = None
        if packet is None:
            self._selector.unregister(carried.ini)  # its end will come as SIGCHLD
            return
        message, descriptors = packet
        if "ready" in message:
            self._tell_ready(carried, message["ready"])
        elif "door" in message:
            carried.outward += tuple(descriptors)
        elif "attached" in message:
            self._tell({"id": carried.number, "paths": carried.folders, **message})
        elif "ended" in message:
            carried.status, carried.peak_kib = message["ended"], message["peak_kib"]
        elif "failed" in message:
            carried.failure = message["failed"]
            self._kill(carried)

    def _tell_ready(self, carried: Child, facts: dict[str, Any]) -> None:
        facts |= self._cgroups.describe()
        facts |= {
            "level": self._plan.level,
            "network": "proxy" if carried.bounds.network else "none",
            "own_uid": bool(self._plan.uid_base),
        }
        self._tell({"id": carried.number, "ready": facts, "pid": carried.pid}, carried.outward)
        carried.close_outward()
        carried.ready = True

    def _tell(self, message: protocol.Message, descriptors: tuple[int, ...] = ()) -> None:
        _tell(self._worker, message, descriptors)

    # Ending.

    def _kill(self, carried: Child) -> None:
        try:
            self._level.kill(carried)
        except ProcessLookupError:
            return  # it ended by itself meanwhile

    def _reap(self, *, blocking: bool = False) -> None:
        flags = os.WEXITED | os.WNOWAIT | (0 if blocking else os.WNOHANG)
        by_pid = {carried.pid: carried for carried in self._carried.values()}
        while by_pid or not blocking:
            try:
                found = os.waitid(os.P_ALL, 0, flags)
            except ChildProcessError:
                return
            if found is None:
                return
            carried = by_pid.pop(found.si_pid, None)
            if carried is None:
                os.waitpid(found.si_pid, 0)
                self._level.note_other(found.si_pid)
                continue
            self._kill(
                carried
            )  # before it is reaped, so that the number is still its own: nothing of it may outlive its first process
            _pid, status, usage = os.wait4(found.si_pid, 0)
            self._finish(carried, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)

    def _finish(self, carried: Child, status: int, cpu_s: float, peak_kib: int) -> None:
        while carried.ini.fileno() in self._selector.get_map() and _has_more(carried.ini):
            self._hear(carried)
        if carried.ini.fileno() in self._selector.get_map():
            self._selector.unregister(carried.ini)
        del self._carried[carried.number]
        carried.close()
        ended = self._level.bury(carried, status)
        counted = self._cgroups.leave(carried.slot)
        if not carried.ready:
            reason = (
                carried.failure or f"its first process ended without a word: status {os.waitstatus_to_exitcode(status)}"
            )
            self._tell({"id": carried.number, "failed": reason})
            return
        end = {
            "id": carried.number,
            "ended": None if ended is None else os.waitstatus_to_exitcode(ended),
            "cpu_ms": round(cpu_s * 1000, 3),
            "peak_bytes": max(peak_kib, carried.peak_kib) * 1024,
            "failure": carried.failure,
        }
        self._tell(end | counted)


def _tell(worker: socket.socket, message: protocol.Message, descriptors: tuple[int, ...] = ()) -> None:
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
    zygote = Zygote(worker, read_plan(packet[0]))
    try:
        told = zygote.open()
    except (OSError, ImportError) as error:
        _tell(worker, {"unavailable": f"{type(error).__name__}: {error}"})
        return
    _tell(worker, {"open": told})
    with contextlib.suppress(ForkServerGone):  # the worker hears of our end, and starts another
        zygote.serve()
    zygote.close()
