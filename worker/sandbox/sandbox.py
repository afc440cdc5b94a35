"""One sandbox, in the worker's hands.

Knows: its descriptors, its processes as seen from outside, its end. Does not know: frames, functions, time limits.
Nothing here opens a path inside the sandbox; what a function may say arrives on `control`, the log and the trace, and is never believed.
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
    """The part of a zygote's zygote that a sandbox calls."""

    runtime: RuntimeCommand

    def send_attach(self, number: int, folders: Sequence[Path], spec: SandboxSpec) -> None:
        """Ask the zygote to mount the bundle and to apply the limits."""

    def has_orphans_of(self, leader: int) -> bool:
        """Return whether the zygote adopted processes of the process group `leader`."""


class Sandbox:
    """A started process tree behind the features, empty until `attach`.

    Owns `control`, `log_fd` and `trace_fd` until `close`; whoever calls `kill` awaits `ended` and then calls `close`.
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
        """Its processes are in a PID namespace of their own."""
        self.waits_inside = self.alone and not zygote.runtime.command
        """Its runtime waits for the bundle by itself: after `start_attach` it may be told to import at once, before `attached`."""
        self.bundle_path = BUNDLE_PATH if self.alone else ""
        """Where the bundle is, as seen inside, once it is attached."""
        self.packages_path = ""
        """Where its packages are, as seen inside; empty without any."""
        self.attached_s = 0.0
        """By `time.monotonic`, since when the bundle is there; 0 as long as that is not known."""
        self.spec = spec
        self.number = number
        self._zygote = zygote
        self.pid = pid
        """Its first process, as numbered outside: PID 1 inside, or the only one where there is no PID namespace."""
        self._facts = facts
        self._proxy_fd = descriptors[4] if len(descriptors) > 4 else -1
        self.egress_proxy: EgressProxy | None = None
        """The proxy of a function with network, from `attach` on."""
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
        """JSON text: the features that hold around this sandbox, as the kernel reported them before any function ran."""
        return json.dumps(self._facts, separators=(",", ":")).encode()

    def lacks(self, features: Iterable[str]) -> list[str]:
        """Those of these features that the receipt does not vouch for."""
        return missing_features(features, self._facts)

    async def attach(self, bundle_dir: Path, spec: SandboxSpec | None = None, packages_dir: Path | None = None) -> None:
        """`start_attach`, and wait until it is done.

        Raises:
            SandboxUnavailable: it could not be done, or the sandbox is dead; kill it.
        """
        await self.start_attach(bundle_dir, spec, packages_dir)
        await self.attached()

    async def start_attach(
        self, bundle_dir: Path, spec: SandboxSpec | None = None, packages_dir: Path | None = None
    ) -> None:
        """Have the bundle put, read-only, where `bundle_path` says, the spec's limits applied, and every remaining privilege inside given up.

        Args:
            packages_dir: what its dependencies are installed in, if it has any: read-only as well, at `packages_path`.
            spec: at most what the blank was started with in `network`; other limits may be anything.

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
        """Wait until what `start_attach` began is done.

        Raises:
            SandboxUnavailable: it could not be done, or the sandbox is dead; kill it.
        """
        if self._attached is None:
            raise RuntimeError("start_attach comes first")
        async with asyncio.timeout(ATTACH_LIMIT_S):
            await self._attached

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

    def kill(self) -> None:
        """Kill everything in the sandbox; idempotent, does not wait. The runtime's status is lost, unless it had ended before."""
        if self._exit.done():
            return
        self._record_usage()
        with contextlib.suppress(ProcessLookupError):  # it ended by itself, and `ended` is about to say so
            if self.alone:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            else:
                # The pidfd proves that the leader's number is still the leader's.
                signal.pidfd_send_signal(self._pidfd, 0)
                os.killpg(self.pid, signal.SIGKILL)

    def _record_usage(self) -> None:
        """Note what the runtime's process used: a PID namespace that is killed discards the accounts of its processes."""
        self._seen_cpu_ms = max(self._seen_cpu_ms, self.cpu_ms())
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/{self._runtime_pid()}/status", "rb") as file,
        ):
            for line in file:
                if line.startswith(b"VmHWM:"):
                    self._seen_peak_bytes = int(line.split()[1]) * 1024

    async def ended(self) -> SandboxExit:
        """How it ended; resolves when everything in it is dead and reaped."""
        return await asyncio.shield(self._exit)

    async def kill_and_wait(self) -> SandboxExit:
        """Kill, wait, and give the descriptors back."""
        self.kill()
        try:
            return await self.ended()
        finally:
            self.close()

    @property
    def has_ended(self) -> bool:
        return self._exit.done()

    def close(self) -> None:
        """Close the worker's descriptors; idempotent. Kills what still lives."""
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
        """Note that the function has nothing to do from now on; `leftovers` measures CPU time from here."""
        # The number of a moment ago will do: if it has ended since, `leftovers`, which looks again, finds it gone.
        self._cpu_at_idle_ms = _cpu_ms_of(self._last_pid or self._runtime_pid())

    def leftovers(self, *, cpu_allowance_ms: float = 20.0, thorough: bool = True) -> bool:
        """Whether the function left processes behind, or burnt more CPU since `mark_idle` than a runtime at mark_idle does.

        For a runtime that answers in its own process; a forking template has a child by design, so ask `cpu_ms` there.

        Args:
            thorough: look for children of every thread (5 µs each; Node has eleven), not just of the main one and of PID 1 (2 µs).
        """
        has_leftovers = self._has_other_processes() if thorough else self._has_children_of_main()
        return has_leftovers or _cpu_ms_of(self._last_pid) - self._cpu_at_idle_ms > cpu_allowance_ms

    def cpu_ms(self) -> float:
        """CPU time of the runtime's process so far (its children's when they are reaped are not in it); 0 when it is gone."""
        return _cpu_ms_of(self._runtime_pid())

    def resident_bytes(self) -> int:
        """Memory the runtime's process holds now; 0 when it is gone. 10 µs."""
        try:
            with open(f"/proc/{self._runtime_pid()}/statm", "rb") as file:
                return int(file.read().split()[1]) * _PAGE_BYTES
        except (FileNotFoundError, ProcessLookupError):
            return 0

    def is_stopped(self) -> bool:
        """Whether the runtime's process is stopped, as by SIGSTOP."""
        try:
            with open(f"/proc/{self._runtime_pid()}/stat", "rb") as file:
                return file.read().rpartition(b") ")[2][:1] == b"T"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def request_stack(self) -> None:
        """Ask the runtime to write where it is to `trace_fd` (see `runtimes/PROTOCOL.md`), which is then readable within milliseconds, or never."""
        pid = self._runtime_pid()
        if pid > 0 and not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)

    def _runtime_pid(self) -> int:
        """PID 2 as numbered outside; PID 1 reaps it, so while PID 1 lists it the number is its own. 0 when it is gone."""
        if not self.alone:
            return self.pid
        children = self._children_of_init()
        self._last_pid = children[0] if children else 0
        return self._last_pid

    def _children_of_init(self) -> list[int]:
        try:
            if self._children_fd < 0:
                self._children_fd = os.open(f"/proc/{self.pid}/task/{self.pid}/children", os.O_RDONLY | os.O_CLOEXEC)
            return [int(word) for word in os.pread(self._children_fd, 4096, 0).split()]
        except (FileNotFoundError, ProcessLookupError):
            return []

    def _has_other_processes(self) -> bool:
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
            return True  # a thread or the process ended while we looked: not at mark_idle
        return False

    def _has_children_of_main(self) -> bool:
        children = self._children_of_init() if self.alone else [self.pid]
        if len(children) != 1:
            return True
        pid = self._last_pid = children[0]
        try:
            if self._grandchildren_fd < 0:
                self._grandchildren_fd = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._grandchildren_fd, 1, 0) != b""
        except (FileNotFoundError, ProcessLookupError):
            return True  # it ended while we looked

    # Called by the zygote, which alone hears the zygote.

    def on_attached(self, facts: dict[str, Any], paths: list[str], at_s: float) -> None:
        self._facts |= facts
        self.attached_s = at_s
        self.bundle_path, self.packages_path = [*paths, ""][:2]
        if self._attached is not None and not self._attached.done():
            self._attached.set_result(None)

    def on_attach_refused(self, failure: str) -> None:
        if self._attached is not None and not self._attached.done():
            self._attached.set_exception(
                SandboxUnavailable(f"the bundle could not be handed to its sandbox: {failure}")
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
    """0 when it is gone."""
    try:
        # clock_getcpuclockid(3): the CPU clock of any process, 0.3 us, no file.
        return time.clock_gettime((~pid << 3) | 2) * 1000 if pid > 0 else 0.0
    except OSError:
        return 0.0
