"""The worker's client of one zygote: starts it, asks it for sandboxes, and notices when it dies.

The event loop drives everything; nothing here waits for a process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from sandlot.errors import SandboxUnavailable
from worker.sandbox.sandbox import Sandbox
from worker.sandbox.spec import PRELOADED, Level, RuntimeCommand, SandboxExit, SandboxSpec
from worker.sandbox.zygote import protocol

OPEN_LIMIT_S: Final = 30.0
SPAWN_LIMIT_S: Final = 30.0
CLOSE_LIMIT_S: Final = 5.0

# The zygote's whole environment. Two malloc arenas: each further one reserves 64 MiB, which
# RLIMIT_DATA would count in every sandbox.
ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}
PROGRAM: Final = "import sys; sys.path.insert(0, sys.argv[1]); from zygote.main import main; main()"


# Process: worker, all of this module; _start is where the zygote begins.
class ZygoteClient:
    """One zygote process and its sandboxes."""

    def __init__(
        self,
        runtime: RuntimeCommand,
        level: Level,
        state_dir: Path,
        uid_base: int,
        on_death: Callable[[ZygoteClient], None],
        missing: tuple[str, ...] = (),
    ) -> None:
        self.runtime = runtime
        self.level = level
        self.facts: dict[str, Any] = {}
        self._state_dir = state_dir
        self._uid_base = uid_base
        self._missing = missing
        self._on_death = on_death
        self._process: subprocess.Popen[bytes] | None = None
        self._sock, self._zygote_sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)
        self._alive = False
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._dead: asyncio.Future[None] = loop.create_future()
        self._unsent: deque[bytes] = deque()
        self._next_number = 0
        self._starting: dict[int, tuple[SandboxSpec, asyncio.Future[Sandbox]]] = {}
        self._sandboxes: dict[int, Sandbox] = {}

    @property
    def pid(self) -> int:
        """The zygote's pid; 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    async def open(self) -> None:
        """Start the zygote, and wait until it can spawn sandboxes.

        Raises:
            SandboxUnavailable: it cannot build this level; the message is the kernel's.
        """
        with self._zygote_sock:
            self._process = await asyncio.to_thread(_start, self.runtime, self._zygote_sock)
        self._alive = True
        asyncio.get_running_loop().add_reader(self._sock, self._on_readable)
        self._send(
            {
                "runtime": self.runtime.name,
                "folder": str(self.runtime.folder),
                "command": self.runtime.command,
                "preload": PRELOADED.split() if self.runtime.name == "python" else [],
                "reserved_mib": self.runtime.reserved_mib,
                "level": self.level,
                "state_dir": str(self._state_dir),
                "uid_base": self._uid_base,
                "missing": self._missing,
            }
        )
        async with asyncio.timeout(OPEN_LIMIT_S):
            self.facts = await self._opened

    # A half-closed socket is the zygote's order to end (recv(2) returns 0): it kills and reaps its
    # sandboxes and removes their cgroups. A SIGKILL after the limit leaves the cgroups behind; the
    # sandboxes die by their parent-death signal.
    async def close(self) -> None:
        """End the zygote and with it every sandbox; return when the zygote has been reaped."""
        if self._process is None:
            self._sock.close()
            return
        self._on_death = lambda _link: None
        if self._alive:
            self._sock.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await self._dead
        except TimeoutError:
            self._process.kill()
            await self._dead

    async def spawn(self, spec: SandboxSpec) -> Sandbox:
        """Start an empty sandbox and wait until it is ready.

        Raises:
            SandboxUnavailable: an isolation layer could not be applied, or the zygote died.
        """
        if not self._alive:
            raise SandboxUnavailable(f"the {self.runtime.name} zygote is not running")
        number = self._next_number = self._next_number + 1
        started: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        self._starting[number] = spec, started
        self._send({"do": "spawn", "id": number, "limits": _limits(spec)})
        async with asyncio.timeout(SPAWN_LIMIT_S):
            return await started

    def send_attach(self, number: int, folders: Sequence[Path], spec: SandboxSpec) -> None:
        """Ask the zygote to mount these folders in a sandbox and to apply the spec's limits."""
        self._send({"do": "attach", "id": number, "paths": [*map(str, folders)], "limits": _limits(spec)})

    # unix(7): a SOCK_SEQPACKET packet is sent as a whole or not at all (EAGAIN), and packets keep
    # their order, so later messages queue behind an unsent one.
    def _send(self, message: protocol.Message) -> None:
        if self._unsent:
            self._unsent.append(protocol.encode(message))
            return
        try:
            protocol.send(self._sock, message)
        except BlockingIOError:
            self._unsent.append(protocol.encode(message))
            asyncio.get_running_loop().add_writer(self._sock, self._send_rest)
        except (BrokenPipeError, ConnectionResetError):
            return  # the zygote died: `_on_readable` reads the end and fails the waiting calls

    def _send_rest(self) -> None:
        try:
            while self._unsent:
                self._sock.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._unsent.clear()
        asyncio.get_running_loop().remove_writer(self._sock)

    def _on_readable(self) -> None:
        while True:
            try:
                packet = protocol.receive(self._sock)
            except BlockingIOError:
                return
            except ConnectionResetError:
                packet = None
            if packet is None:
                self._on_zygote_death()
                return
            self._dispatch(*packet)

    def _dispatch(self, message: protocol.Message, descriptors: list[int]) -> None:
        if "id" not in message:
            self._on_open(message)
        elif "ready" in message:
            self._on_ready(message, descriptors)
        elif "failed" in message:
            _spec, started = self._starting.pop(message["id"])
            if not started.done():
                started.set_exception(
                    SandboxUnavailable(f"a {self.level} sandbox could not be started: {message['failed']}")
                )
        elif "attached" in message or "refused" in message:
            self._on_attached(message)
        elif "ended" in message:
            self._sandboxes.pop(message["id"]).on_exit(_exit_of(message))

    def _on_open(self, message: protocol.Message) -> None:
        if self._opened.done():
            return
        if "open" in message:
            self._opened.set_result(message["open"])
        else:
            self._opened.set_exception(SandboxUnavailable(f"{self.level}: {message['unavailable']}"))

    def _on_attached(self, message: protocol.Message) -> None:
        sandbox = self._sandboxes.get(message["id"])
        if sandbox is None:
            return  # the sandbox has ended
        if "refused" in message:
            sandbox.on_attach_refused(message["refused"])
        else:
            sandbox.on_attached(message["attached"], message["paths"], message["at_s"])

    # proc(5), /proc/pid/task/tid/children: the children of a subreaper include adopted orphans.
    def has_orphans_of(self, leader: int) -> bool:
        """Return whether the zygote has adopted processes of that process group.

        Only at the restricted level, where a sandbox has no init to adopt them.
        """
        if self._process is None:
            return False
        pid = self._process.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
        return any(child != leader and _group_of(child) == leader for child in children)

    def _on_ready(self, message: protocol.Message, descriptors: list[int]) -> None:
        spec, started = self._starting.pop(message["id"])
        sandbox = Sandbox(self, message["id"], spec, message["pid"], descriptors, message["ready"])
        self._sandboxes[message["id"]] = sandbox
        if started.done():  # the caller has gone, and no other code knows this sandbox
            sandbox.close()
        else:
            started.set_result(sandbox)

    def _on_zygote_death(self) -> None:
        """Fail every waiting call, and end every sandbox without the kernel's figures.

        The sandboxes die with the zygote, by their parent-death signal.
        """
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock)
        if self._unsent:
            loop.remove_writer(self._sock)
            self._unsent.clear()
        self._sock.close()
        self._alive = False
        failure = SandboxUnavailable(f"the {self.runtime.name} zygote died")
        for _spec, started in self._starting.values():
            if not started.done():
                started.set_exception(failure)
        self._starting.clear()
        for sandbox in self._sandboxes.values():
            sandbox.kill()
            sandbox.on_exit(
                SandboxExit(exit_code=None, signal=signal.SIGKILL, peak_memory_bytes=0, cpu_ms=0.0, oom_killed=False)
            )
        self._sandboxes.clear()
        if not self._opened.done():
            self._opened.set_exception(failure)
        if self._process is not None:
            loop.run_in_executor(None, self._process.wait).add_done_callback(self._on_reaped)

    def _on_reaped(self, _status: asyncio.Future[int]) -> None:
        if not self._dead.done():
            self._dead.set_result(None)
        self._on_death(self)


# Process: worker; a thread, because Popen waits for the execve(2). `-I` is isolated mode: neither
# the environment nor the user's site-packages change it. A session of its own (setsid(2)) keeps a
# terminal's Ctrl-C away. A fork of the worker instead would give every function a copy of its
# memory, the Redis password included.
def _start(runtime: RuntimeCommand, sock: socket.socket) -> subprocess.Popen[bytes]:
    """Execute the zygote with a literal environment and one descriptor, in a session of its own."""
    folder = str(Path(__file__).parent)
    return subprocess.Popen(
        [str(runtime.interpreter), "-I", "-c", PROGRAM, folder, str(sock.fileno())],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        close_fds=True,
        pass_fds=[sock.fileno()],
        start_new_session=True,
        cwd="/",
    )


def _limits(spec: SandboxSpec) -> dict[str, object]:
    return {
        "memory_limit_mib": spec.memory_limit_mib,
        "processes": spec.processes,
        "cpu_limit_s": spec.cpu_limit_s,
        "open_files": spec.open_files,
        "tmp_mib": spec.tmp_mib,
        "network": bool(spec.network),
        "cpus": spec.cpus,
    }


def _exit_of(message: protocol.Message) -> SandboxExit:
    status = message["ended"]
    return SandboxExit(
        exit_code=status if status is not None and status >= 0 else None,
        signal=-status if status is not None and status < 0 else (signal.SIGKILL if status is None else None),
        peak_memory_bytes=message["peak_bytes"],
        cpu_ms=message["cpu_ms"],
        oom_killed=message.get("oom_killed", False),
        process_limit_hits=message.get("process_limit_hits", 0),
        failure=message["failure"],
    )


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
