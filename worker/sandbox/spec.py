"""The values between the pool and the isolation layers: a sandbox's limits, runtime and exit."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Level = Literal["strict", "restricted"]

PRELOADED: Final = (
    "abc argparse array ast asyncio base64 binascii bisect calendar codecs collections collections.abc concurrent.futures contextlib contextvars copy csv "
    "dataclasses datetime decimal email.message email.parser encodings.idna enum faulthandler fractions functools gzip hashlib heapq hmac html http.client "
    "importlib.metadata inspect io itertools json logging math mimetypes numbers operator os pathlib pickle platform pprint queue random re secrets select "
    "selectors shutil signal socket ssl statistics string struct subprocess tempfile textwrap threading time traceback types typing unicodedata "
    "urllib.parse urllib.request uuid warnings weakref xml.etree.ElementTree zlib zoneinfo"
)
"""The modules that functions import anyway, imported once per zygote instead of once per sandbox:
30 ms become 6 ms for json, re and asyncio."""

NODE_RESERVED_MIB: Final = 640
"""V8 of Node 24 reserves 512 MiB for code, writable, at its start (Node 20: 128 MiB, not writable);
with less than 600 MiB it does not start."""


@dataclass(frozen=True, slots=True)
class RuntimeCommand:
    """A language runtime on this machine, and how to start it."""

    name: str
    folder: Path
    """`runtimes/python` or `runtimes/node`: the only files of Sandlot that are visible inside."""
    command: tuple[str, ...] = ()
    """The command to execute; `{runtime}` stands for the folder as seen inside. Empty for Python,
    which is forked and not executed."""
    reserved_mib: int = 48
    """Address space that it reserves before a function allocates any: counted by RLIMIT_DATA,
    hardly ever touched."""
    interpreter: Path = Path(getattr(sys, "_base_executable", sys.executable))
    """The Python that the zygote runs on: the base one of a virtual environment, whose
    site-packages hold nothing of Sandlot's."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """The limits of one sandbox.

    Prewarmed sandboxes start with the defaults; `Sandbox.attach` replaces them by a function's own.
    """

    memory_limit_mib: int = 256
    processes: int = 64
    """Processes and threads together, init among them."""
    cpu_limit_s: float | None = None
    """CPU seconds of one process over its whole life; with None only the wall limit ends it."""
    open_files: int = 256
    tmp_mib: int = 64
    network: tuple[str, ...] = ()
    """Hosts (`example.com`, `example.com:8443`, `*.example.com`) reachable through the proxy;
    without any, none is reachable."""
    operator_hosts: bool = False
    """The operator named the hosts in `network`, not a function: they may have any address, private
    ones included."""
    cpus: float = 1.0
    """CPU seconds per second of wall time, where a cgroup can enforce it."""


@dataclass(frozen=True, slots=True)
class SandboxExit:
    """The end of a sandbox as the kernel reports it; everything in it is dead and reaped."""

    exit_code: int | None
    """Exit code of the runtime's process; None if a signal, or the kill of the sandbox, ended
    it."""
    signal: int | None
    peak_memory_bytes: int
    """Peak of the whole sandbox where a memory cgroup counts it, else of its largest process."""
    cpu_ms: float
    """CPU time of all its processes together."""
    oom_killed: bool
    """The kernel killed a process because the memory cgroup was full."""
    process_limit_hits: int = 0
    """Processes and threads that the pids cgroup refused; 0 without such a cgroup."""
    failure: str = ""
    """The reason why the runtime could not take over, if it could not: the platform's fault, not
    the function's."""


def find_python_runtime(folder: Path) -> RuntimeCommand:
    """Return the command of the Python runtime in `folder`."""
    return RuntimeCommand("python", folder)


def find_node_runtime(folder: Path, node: Path, flags: tuple[str, ...] = ()) -> RuntimeCommand:
    """Return the command of the Node runtime in `folder`.

    Links in `node` are resolved, as a sandbox shows the file itself; at the strict level it lies in
    /usr/bin inside, wherever the host has it.
    """
    return RuntimeCommand("node", folder, (os.path.realpath(node), *flags, "{runtime}/runner.cjs"), NODE_RESERVED_MIB)
