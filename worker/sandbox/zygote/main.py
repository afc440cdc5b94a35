"""The zygote: one quiet process per runtime that sandboxes are forked from.

Knows: which sandboxes it carries, and the worker's requests. Does not know: what happens inside one.
One thread, no secret, no function. When the worker goes away, everything here ends.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import selectors
import signal
import socket
import sys
from typing import Any

from . import descent, kernel, messages, publish, restricted, scratch, seccomp, skeleton, strict
from .cgroup import Cgroups, NoCgroups
from .cgroup_v1 import open_cgroups_v1
from .cgroup_v2 import open_cgroups_v2
from .plan import BUNDLE_PATH, HOME_PATH, INSIDE_UID, Limits, Plan, read_limits, read_plan

GONE_WITHOUT_A_WORD = "its first process ended without a word: status"


class Carried:
    """One sandbox, as the zygote sees it."""

    def __init__(self, number: int, slot: int, bounds: Limits, ini: socket.socket) -> None:
        self.number = number
        self.slot = slot
        self.bounds = bounds
        self.pid = -1
        self.ini = ini
        self.handed_over: tuple[int, ...] = ()
        """pidfd and the worker's ends of control, log and trace, until the sandbox is ready."""
        self.door: int | None = None
        self.ready = False
        self.status: int | None = None
        self.peak_kib = 0
        self.failure = ""
        self.bundle = ""
        self.home = ""
        """Its folder to write in, where there is no mount namespace to make one in."""


class Zygote:
    """Spawns, hands over bundles, reaps and tells."""

    def __init__(self, worker: socket.socket, plan: Plan) -> None:
        self._worker = worker
        self._plan = plan
        self._base = f"{plan.state_dir}/root"
        self._carried: dict[int, Carried] = {}
        self._selector = selectors.DefaultSelector()
        self._filters: dict[seccomp.FilterChoice, bytes] = {}
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._outside: dict[str, int] = {}
        self._cgroups: Cgroups = NoCgroups()
        self._readable: list[str] = []
        self._scratch = ""
        self._published: publish.Published | None = None
        self._covered: dict[str, int] = {}

    def open(self) -> dict[str, Any]:
        """Load the runtime, build what all sandboxes share; returns what the worker should know."""
        _load_runtime(self._plan)
        if self._plan.level == "strict":
            self._enter_own_mounts()
            os.makedirs(self._base, mode=0o755, exist_ok=True)
            skeleton.build(self._base, self._plan)
            self._outside = strict.namespace_ids()
        else:
            self._prepare_restricted()
        if "cgroups" not in self._plan.missing:
            self._cgroups = open_cgroups_v2() or open_cgroups_v1() or NoCgroups()
        descent.prepare_environment(HOME_PATH)
        gc.collect()
        gc.disable()
        gc.freeze()
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._selector.register(self._worker, selectors.EVENT_READ, None)
        self._selector.register(self._wake, selectors.EVENT_READ, "children")
        return {"landlock_abi": kernel.landlock_abi(), "cgroups": self._cgroups.describe()}

    def _enter_own_mounts(self) -> None:
        """A mount namespace of our own; for an ordinary user inside a user namespace that maps nobody but that user."""
        if self._plan.uid_base:
            kernel.unshare(kernel.CLONE_NEWNS)
        else:
            uid, gid = os.geteuid(), os.getegid()
            kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"0 {uid} 1")
            _write("/proc/self/gid_map", f"0 {gid} 1")
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)

    def _prepare_restricted(self) -> None:
        # Orphans come to us, not to whatever is PID 1 of a container.
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._published = publish.Published()
        self._scratch = scratch.open_scratch()
        self._readable = [
            *skeleton.shared_paths(self._plan),
            self._plan.folder,
            *filter(os.path.exists, restricted.ETC),
        ]
        if self._plan.uid_base:
            self._covered = publish.open_ways_to(self._readable)
        restricted.require(self._plan, self._readable)

    def serve(self) -> None:
        """Until the worker closes its end."""
        while True:
            for key, _events in self._selector.select():
                if key.data is None:
                    if not self._obey():
                        return
                elif key.data == "children":
                    self._wake.recv(4096)
                    self._reap()
                else:
                    self._hear(key.data)

    def close(self) -> None:
        """Kill what is left, reap it, and remove its cgroups."""
        for carried in self._carried.values():
            if carried.pid > 0:
                self._kill(carried)
        while self._carried:
            self._reap(blocking=True)
        self._cgroups.close()
        if self._published is not None:
            self._published.close()
        scratch.close_scratch(self._scratch)

    def _obey(self) -> bool:
        try:
            packet = messages.receive(self._worker)
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
        ini, ini_inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        carried = Carried(number, slot, bounds, ini)
        try:
            self._start(carried, ini_inside)
        except OSError as error:
            self._cgroups.leave(slot)
            messages.send(self._worker, {"id": number, "failed": str(error)})

    def _start(self, carried: Carried, ini_inside: socket.socket) -> None:
        control, control_inside = socket.socketpair()
        log, log_inside = os.pipe()
        trace, trace_inside = os.pipe()
        inside = (log_inside, control_inside.detach(), trace_inside, ini_inside.detach())
        ours = (control.detach(), log, trace)
        try:
            self._cgroups.prepare(carried.slot, carried.bounds)
            program = self._filter(carried.bounds)
            if self._scratch:
                carried.home = scratch.make_home(self._scratch, carried.slot, self._uid_of(carried))
            pid, pidfd = kernel.clone(strict.NAMESPACES) if self._plan.level == "strict" else _fork()
            if pid == 0:
                self._be_child(carried, inside, program)
        except OSError:
            carried.ini.close()
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in inside:
                os.close(fd)
        carried.pid = pid
        carried.handed_over = (pidfd, *ours)
        self._carried[carried.number] = carried
        self._selector.register(carried.ini, selectors.EVENT_READ, carried)
        try:
            self._cgroups.join(carried.slot, pid)
            if self._plan.level == "strict":
                _write(f"/proc/{pid}/uid_map", f"{INSIDE_UID} {self._uid_of(carried)} 1")
                _write(f"/proc/{pid}/gid_map", f"{INSIDE_UID} {self._uid_of(carried)} 1")
            messages.send(carried.ini, {"go": True})
        except OSError as error:
            carried.failure = str(error)
            self._kill(carried)

    def _be_child(self, carried: Carried, inside: tuple[int, int, int, int], program: bytes) -> None:
        try:
            self._cgroups.enter(carried.slot)
            if self._plan.level == "strict":
                strict.run_init(self._base, self._plan, carried.bounds, inside, self._outside, program)
            else:
                restricted.run(self._plan, carried.bounds, carried.slot, inside, program, self._readable, carried.home)
        finally:
            os._exit(72)

    def _uid_of(self, carried: Carried) -> int:
        """The sandbox's uid as this process sees uids; 0 is our own, in the user namespace of an unprivileged zygote."""
        return self._plan.uid_base + carried.slot if self._plan.uid_base else 0

    def _filter(self, bounds: Limits) -> bytes:
        choice = seccomp.FilterChoice(
            network=bounds.network,
            namespaces=self._plan.level == "strict",
            other_uid=self._plan.level == "strict" or self._plan.uid_base > 0,
            shared_memory=self._cgroups.counts_memory,
        )
        if choice not in self._filters:
            self._filters[choice] = seccomp.build_filter(choice, kernel.MACHINE)
        return self._filters[choice]

    # Between start and end.

    def _attach(self, carried: Carried, message: messages.Message) -> None:
        bounds = read_limits(message["limits"])
        carried.bundle = message["path"]
        if self._published is not None and self._plan.uid_base:
            carried.bundle = self._published.path(message["path"], self._covered)
        order = {
            "limits": message["limits"],
            "tmp_changed": bounds.tmp_mib != carried.bounds.tmp_mib,
            "counted": self._cgroups.counts_memory,
            "path": carried.bundle,
        }
        try:
            self._cgroups.limit(carried.slot, bounds)
            trees: tuple[int, ...] = ()
            if self._plan.level == "strict":
                trees = (kernel.open_tree(carried.bundle),)
                attributes = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
                kernel.mount_setattr(trees[0], "", kernel.AT_EMPTY_PATH, attributes)
            try:
                messages.send(carried.ini, order, trees)
            finally:
                for fd in trees:
                    os.close(fd)
        except OSError as error:
            messages.send(self._worker, {"id": carried.number, "refused": str(error)})

    def _hear(self, carried: Carried) -> None:
        """A word from inside, all of it said before any function of a user runs there, or by PID 1."""
        if carried.ini.fileno() < 0:
            return  # reaped by an earlier event of the same round
        try:
            packet = messages.receive(carried.ini)
        except ConnectionResetError:
            packet = None
        if packet is None:
            self._selector.unregister(carried.ini)  # its end will come as SIGCHLD
            return
        message, descriptors = packet
        if "ready" in message:
            self._tell_ready(carried, message["ready"])
        elif "door" in message:
            (carried.door,) = descriptors
        elif "attached" in message:
            path = carried.bundle if self._plan.level != "strict" else BUNDLE_PATH
            messages.send(self._worker, {"id": carried.number, "attached": message["attached"], "path": path})
        elif "ended" in message:
            carried.status, carried.peak_kib = message["ended"], message["peak_kib"]
        elif "failed" in message:
            carried.failure = message["failed"]
            self._kill(carried)

    def _tell_ready(self, carried: Carried, facts: dict[str, Any]) -> None:
        facts |= self._cgroups.describe()
        facts["level"] = self._plan.level
        facts["network"] = "proxy" if carried.bounds.network else "none"
        facts["own_uid"] = bool(self._plan.uid_base)
        doors = () if carried.door is None else (carried.door,)
        messages.send(
            self._worker, {"id": carried.number, "ready": facts, "pid": carried.pid}, (*carried.handed_over, *doors)
        )
        for fd in (*carried.handed_over, *doors):
            os.close(fd)
        carried.handed_over, carried.door, carried.ready = (), None, True

    # Ending.

    def _kill(self, carried: Carried) -> None:
        """Only for a child not yet reaped, so its number is still its own."""
        try:
            if self._plan.level == "strict":
                os.kill(carried.pid, signal.SIGKILL)
            else:
                restricted.kill_group(carried.pid)
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
                os.waitpid(found.si_pid, 0)  # an orphan of a restricted sandbox, adopted by us
                continue
            if self._plan.level != "strict":
                self._kill(carried)  # the leader is not reaped yet, so the group's number is still its own
            _pid, status, usage = os.wait4(found.si_pid, 0)
            if self._plan.level != "strict":
                restricted.reap_group(found.si_pid)
            self._finish(carried, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)

    def _finish(self, carried: Carried, status: int, cpu_s: float, peak_kib: int) -> None:
        while carried.ini.fileno() in self._selector.get_map() and _has_more(carried.ini):
            self._hear(carried)
        if carried.ini.fileno() in self._selector.get_map():
            self._selector.unregister(carried.ini)
        carried.ini.close()
        for fd in (*carried.handed_over, *(() if carried.door is None else (carried.door,))):
            os.close(fd)
        del self._carried[carried.number]
        counted = self._cgroups.leave(carried.slot)
        if carried.home:
            scratch.remove_home(carried.home)
        if not carried.ready:
            reason = carried.failure or f"{GONE_WITHOUT_A_WORD} {os.waitstatus_to_exitcode(status)}"
            _tell(self._worker, {"id": carried.number, "failed": reason})
            return
        told = status if self._plan.level != "strict" else carried.status
        end = {
            "id": carried.number,
            "ended": None if told is None else os.waitstatus_to_exitcode(told),
            "cpu_ms": round(cpu_s * 1000, 3),
            "peak_bytes": max(peak_kib, carried.peak_kib) * 1024,
            "failure": carried.failure,
        }
        _tell(self._worker, end | counted)


def _fork() -> tuple[int, int]:
    """Without namespaces the C library's own fork will do, and keeps its idea of thread ids right."""
    pid = kernel.fork()
    return pid, os.pidfd_open(pid) if pid else -1


def _tell(worker: socket.socket, message: messages.Message) -> None:
    try:
        messages.send(worker, message)
    except (BrokenPipeError, ConnectionResetError):
        return  # the worker is gone; the loop's next read ends this process


def _has_more(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except (BlockingIOError, ConnectionResetError):
        return False


def _write(path: str, text: str) -> None:
    """In one write(2), as the kernel wants it for maps."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _load_runtime(plan: Plan) -> None:
    """Import the runtime as `runtimes/PROTOCOL.md` says, and what functions will import anyway; never a function."""
    sys.path[:] = [path for path in sys.path if "-packages" not in path]
    if plan.runtime != "python":
        return
    for name in plan.preload:
        importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(
        "sandlot_runtime", f"{plan.folder}/__init__.py", submodule_search_locations=[plan.folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no runtime in {plan.folder}")
    runtime = sys.modules["sandlot_runtime"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runtime)


def main() -> None:
    """Started by the worker with its folder above this package and the number of its socket as arguments."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C is the worker's to act on; we end when it does
    sys.path.remove(sys.argv[1])
    worker = socket.socket(fileno=int(sys.argv[2]))
    worker.set_inheritable(False)
    packet = messages.receive(worker)
    if packet is None:
        return
    zygote = Zygote(worker, read_plan(packet[0]))
    try:
        told = zygote.open()
    except (OSError, ImportError) as error:
        messages.send(worker, {"unavailable": f"{type(error).__name__}: {error}"})
        return
    messages.send(worker, {"open": told})
    zygote.serve()
    zygote.close()
