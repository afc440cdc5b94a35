"""One sandbox as the worker sees it: its descriptors, its processes from outside, its end.

Nothing here opens a path inside the sandbox. A function speaks on `control`, the log and the trace,
and is trusted on none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from sandlot.errors import SandboxUnavailable
from sandlot.receipt import missing_features
from worker.sandbox.egress_proxy import EgressProxy
from worker.sandbox.spec import Level, RuntimeCommand, SandboxExit, SandboxSpec
from worker.sandbox.zygote.protocol import BUNDLE_PATH, PACKAGES_PATH

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

ATTACH_LIMIT_S: Final = 10.0


class ZygoteHandle(Protocol):
    """The part of a zygote's client that a sandbox calls."""

    runtime: RuntimeCommand

    def send_attach(self, number: int, folders: Sequence[Path], spec: SandboxSpec) -> None:
        """Ask the zygote to mount the bundle and to apply the limits."""

    def has_orphans_of(self, leader: int) -> bool:
        """Return whether the zygote adopted processes of the process group `leader`."""


# Process: worker, all of this module.
class Sandbox:
    """A started process tree behind the isolation layers, without a function until `attach`.

    Owns `control`, `log_fd` and `trace_fd` until `close`. After `kill`, the caller awaits `ended`
    and then calls `close`.
    """

    def __init__(
        self,
        zygote: ZygoteHandle,
        number: int,
        spec: SandboxSpec,
        pid: int,
        descriptors: list[int],
        facts: dict[str, Any],
    ) -> None:
        self._pidfd, control, self.log_fd, self.trace_fd = descriptors[:4]
        self.control = socket.socket(fileno=control)
        self.control.setblocking(False)
        os.set_blocking(self.log_fd, False)
        os.set_blocking(self.trace_fd, False)
        self.level: Level = facts["level"]
        self.alone = self.level == "strict"
        """The sandbox's processes are in a PID namespace of their own."""
        self.waits_inside = self.alone and not zygote.runtime.command
        """The runtime waits for the bundle by itself: `I` may be sent before `attached` returns."""
        self.bundle_path = BUNDLE_PATH if self.alone else ""
        """The bundle's path as seen inside, once it is attached."""
        self.packages_path = ""
        """The packages' path as seen inside; empty without any."""
        self.attached_s = 0.0
        """The time of the attachment by `time.monotonic`; 0 until it is known."""
        self.spec = spec
        self.number = number
        self._zygote = zygote
        self.pid = pid
        """The pid of the first process, as numbered outside."""
        self._facts = facts
        self._proxy_fd = descriptors[4] if len(descriptors) > 4 else -1
        self.egress_proxy: EgressProxy | None = None
        """The proxy of a function with a network, from `attach` on."""
        self._attached: asyncio.Future[None] | None = None
        self._exit: asyncio.Future[SandboxExit] = asyncio.get_running_loop().create_future()
        self._children_fd = -1
        self._grandchildren_fd = -1
        self._cpu_at_idle_ms = 0.0
        self._last_pid = 0
        self._seen_cpu_ms = 0.0
        self._seen_peak_bytes = 0
        self._closed = False

    @property
    def receipt(self) -> bytes:
        """The isolation features in force, as JSON text.

        The kernel reported them from inside, before any function ran.
        """
        return json.dumps(self._facts, separators=(",", ":")).encode()

    def lacks(self, features: Iterable[str]) -> list[str]:
        """Return those of these features that the receipt does not list as in force."""
        return missing_features(features, self._facts)

    async def attach(self, bundle_dir: Path, spec: SandboxSpec | None = None, packages_dir: Path | None = None) -> None:
        """Attach a function, and wait until it is attached: `start_attach` and `attached`.

        Raises:
            SandboxUnavailable: it failed, or the sandbox is dead; the caller has to kill it.
        """
        await self.start_attach(bundle_dir, spec, packages_dir)
        await self.attached()

    async def start_attach(
        self, bundle_dir: Path, spec: SandboxSpec | None = None, packages_dir: Path | None = None
    ) -> None:
        """Ask for the bundle to be mounted read-only and for the spec's limits to be applied.

        With that, the sandbox gives up its last privilege. `attached` waits for it.

        Args:
            spec: any limits; a network only if the sandbox was started with one.
            packages_dir: the folder of the installed dependencies, mounted read-only as well.

        Raises:
            SandboxUnavailable: it was started without a network and the spec asks for one.
        """
        self.spec = spec or self.spec
        if self.spec.network:
            await self._open_egress_proxy()
        self._attached = asyncio.get_running_loop().create_future()
        folders = [bundle_dir] if packages_dir is None else [bundle_dir, packages_dir]
        if self.alone and packages_dir is not None:
            self.packages_path = PACKAGES_PATH
        self._zygote.send_attach(self.number, folders, self.spec)

    async def attached(self) -> None:
        """Wait until the bundle is mounted and the limits hold.

        Raises:
            SandboxUnavailable: it failed, or the sandbox is dead; the caller has to kill it.
            TimeoutError: it takes longer than `ATTACH_LIMIT_S`.
        """
        if self._attached is None:
            raise RuntimeError("start_attach comes first")
        async with asyncio.timeout(ATTACH_LIMIT_S):
            await self._attached

    # A listening socket stays in the network namespace it was made in (network_namespaces(7)):
    # accept here takes connections from inside, and the proxy's own connections leave from the
    # worker's.
    async def _open_egress_proxy(self) -> None:
        if self._proxy_fd < 0:
            raise SandboxUnavailable("this sandbox was started without a network, and cannot be given one")
        if self.spec.operator_hosts:
            self.egress_proxy = EgressProxy(self.spec.network, is_reachable=lambda _address: True)
        else:
            self.egress_proxy = EgressProxy(self.spec.network)
        self._facts |= {"network": list(self.spec.network)}
        proxy_fd, self._proxy_fd = self._proxy_fd, -1
        await self.egress_proxy.open(proxy_fd)

    # Strict: pidfd_send_signal(2) to init; the kernel kills every process of its PID namespace with
    # it (pid_namespaces(7)). Restricted: kill(2) to the process group, which no process can leave.
    def kill(self) -> None:
        """Kill everything in the sandbox without waiting; idempotent.

        The runtime's status is lost, unless it has ended before.
        """
        if self._exit.done():
            return
        self._record_usage()
        with contextlib.suppress(ProcessLookupError):  # it has ended, which `ended` is about to report
            if self.alone:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            else:
                # Signal 0 through the pidfd fails once the leader is reaped, so the group's number
                # is still the leader's.
                signal.pidfd_send_signal(self._pidfd, 0)
                os.killpg(self.pid, signal.SIGKILL)

    # proc(5), VmHWM: the peak resident set size, in KiB.
    def _record_usage(self) -> None:
        """Record what the runtime's process has used, before the kill discards it.

        In a killed PID namespace the kernel reaps the processes, and their figures reach no parent.
        """
        self._seen_cpu_ms = max(self._seen_cpu_ms, self.cpu_ms())
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/{self._runtime_pid()}/status", "rb") as file,
        ):
            for line in file:
                if line.startswith(b"VmHWM:"):
                    self._seen_peak_bytes = int(line.split()[1]) * 1024

    async def ended(self) -> SandboxExit:
        """Wait until everything in the sandbox is dead and reaped, and return how it ended."""
        return await asyncio.shield(self._exit)

    async def kill_and_wait(self) -> SandboxExit:
        """Kill, wait for the end, and close."""
        self.kill()
        try:
            return await self.ended()
        finally:
            self.close()

    @property
    def has_ended(self) -> bool:
        return self._exit.done()

    def close(self) -> None:
        """Kill the sandbox if it lives, and close the worker's descriptors; idempotent."""
        if self._closed:
            return
        self.kill()
        self._closed = True
        self.control.close()
        for fd in (self._pidfd, self.log_fd, self.trace_fd, self._children_fd, self._grandchildren_fd):
            if fd >= 0:
                os.close(fd)
        if self.egress_proxy is not None:
            self.egress_proxy.close()

    def mark_idle(self) -> None:
        """Record that the runtime should be idle: `leftovers` counts its CPU time from here."""
        # The last known pid will do: if the process has ended since, `leftovers`, which reads the
        # pid again, finds it gone.
        self._cpu_at_idle_ms = _cpu_ms_of(self._last_pid or self._runtime_pid())

    def leftovers(self, *, cpu_allowance_ms: float = 20.0, thorough: bool = True) -> bool:
        """Return whether the function left processes behind or used more CPU than an idle runtime.

        Only for a runtime that answers in its own process: a forking template always has a child.

        Args:
            cpu_allowance_ms: CPU time since `mark_idle` that an idle runtime may have used.
            thorough: look for children of every thread (5 µs each; Node has eleven), not only of
                the main thread and of init (2 µs).
        """
        has_leftovers = self._has_other_processes() if thorough else self._has_children_of_main()
        return has_leftovers or _cpu_ms_of(self._last_pid) - self._cpu_at_idle_ms > cpu_allowance_ms

    def cpu_ms(self) -> float:
        """Return the runtime's CPU time so far, without its children's; 0 when it is gone."""
        return _cpu_ms_of(self._runtime_pid())

    # proc(5), /proc/pid/statm: the second field is the resident set in pages.
    def resident_bytes(self) -> int:
        """Return the resident memory of the runtime's process; 0 when it is gone. Takes 10 µs."""
        try:
            with open(f"/proc/{self._runtime_pid()}/statm", "rb") as file:
                return int(file.read().split()[1]) * _PAGE_BYTES
        except (FileNotFoundError, ProcessLookupError):
            return 0

    # proc(5), /proc/pid/stat: the state follows the name, which stands in parentheses; T is
    # stopped.
    def is_stopped(self) -> bool:
        """Return whether the runtime's process is stopped, as by SIGSTOP."""
        try:
            with open(f"/proc/{self._runtime_pid()}/stat", "rb") as file:
                return file.read().rpartition(b") ")[2][:1] == b"T"
        except (FileNotFoundError, ProcessLookupError):
            return False

    # kill(2) by the number that was read just before; ESRCH if the runtime has been reaped since.
    def request_stack(self) -> None:
        """Ask the runtime to write its stack to `trace_fd` (see `runtimes/PROTOCOL.md`).

        The stack is readable within milliseconds, or never.
        """
        pid = self._runtime_pid()
        if pid > 0 and not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)

    def _runtime_pid(self) -> int:
        """Return the runtime's pid outside; 0 when it is gone.

        Init reaps the runtime, so as long as init lists it the number has not been reused.
        """
        if not self.alone:
            return self.pid
        children = self._children_of_init()
        self._last_pid = children[0] if children else 0
        return self._last_pid

    # proc(5), /proc/pid/task/tid/children: the pids as numbered in the reader's PID namespace. The
    # file is kept open: reading it again costs 2 µs, and once the task is gone it lists nothing,
    # even if the number was given to another task.
    def _children_of_init(self) -> list[int]:
        try:
            if self._children_fd < 0:
                self._children_fd = os.open(f"/proc/{self.pid}/task/{self.pid}/children", os.O_RDONLY | os.O_CLOEXEC)
            return [int(word) for word in os.pread(self._children_fd, 4096, 0).split()]
        except (FileNotFoundError, ProcessLookupError):
            return []

    def _has_other_processes(self) -> bool:
        """Return whether any process but the runtime's lives, by the children of every thread."""
        children = self._children_of_init() if self.alone else [self.pid]
        if len(children) != 1:
            return True
        self._last_pid = children[0]
        if not self.alone and self._zygote.has_orphans_of(self.pid):
            return True
        tasks = f"/proc/{children[0]}/task"
        try:
            for task in os.listdir(tasks):
                with open(f"{tasks}/{task}/children", "rb") as file:
                    if file.read(1):
                        return True
        except (FileNotFoundError, ProcessLookupError):
            return True  # a thread or the process ended meanwhile: the runtime is not idle
        return False

    def _has_children_of_main(self) -> bool:
        """Return whether the runtime's main thread has children, or init has others."""
        children = self._children_of_init() if self.alone else [self.pid]
        if len(children) != 1:
            return True
        pid = self._last_pid = children[0]
        try:
            if self._grandchildren_fd < 0:
                self._grandchildren_fd = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._grandchildren_fd, 1, 0) != b""
        except (FileNotFoundError, ProcessLookupError):
            return True  # the process ended meanwhile

    # Called by the zygote's client, with the zygote's messages.

    def on_attached(self, facts: dict[str, Any], paths: list[str], at_s: float) -> None:
        self._facts |= facts
        self.attached_s = at_s
        self.bundle_path, self.packages_path = [*paths, ""][:2]
        if self._attached is not None and not self._attached.done():
            self._attached.set_result(None)

    def on_attach_refused(self, failure: str) -> None:
        if self._attached is not None and not self._attached.done():
            self._attached.set_exception(
                SandboxUnavailable(f"the bundle could not be attached to its sandbox: {failure}")
            )

    def on_exit(self, end: SandboxExit) -> None:
        self.on_attach_refused("the sandbox ended first")
        if not self._exit.done():
            seen = replace(
                end,
                cpu_ms=max(end.cpu_ms, self._seen_cpu_ms),
                peak_memory_bytes=max(end.peak_memory_bytes, self._seen_peak_bytes),
            )
            self._exit.set_result(seen)


def _cpu_ms_of(pid: int) -> float:
    """Return the CPU time of a process; 0 when it is gone."""
    try:
        # clock_getcpuclockid(3): the id of a process's CPU clock, computed as the C library does.
        # It takes 0.3 µs and no file.
        return time.clock_gettime((~pid << 3) | 2) * 1000 if pid > 0 else 0.0
    except OSError:
        return 0.0
