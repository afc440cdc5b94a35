"""What a sandbox may use, how it is started, and how it ended: the values between a pool and the walls.

Knows: units. Does not know: how a limit is enforced.
"""

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
"""What functions import anyway: once per zygote instead of once per sandbox (30 ms becomes 6 ms for json, re and asyncio)."""


NODE_RESERVED_MIB: Final = 640
"""V8 of Node 24 reserves 512 MiB writable for code at once (Node 20: 128 not writable); 600 is the least that starts."""


@dataclass(frozen=True, slots=True)
class RuntimeCommand:
    """A language runtime on this machine."""

    name: str
    folder: Path
    """`runtimes/python`, `runtimes/node`: all of ours that is visible inside."""
    command: tuple[str, ...] = ()
    """What to execute, `{runtime}` standing for the folder as seen inside; empty for Python, which is forked, not executed."""
    reserved_mib: int = 48
    """Address space it reserves before a function allocates anything: counted by RLIMIT_DATA, hardly ever touched."""
    interpreter: Path = Path(getattr(sys, "_base_executable", sys.executable))
    """The Python that the zygote runs on: the base one, whose site-packages hold nothing of ours."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """The limits of one sandbox. The default is what prewarmed blanks are started with; `attach` can lower it to a function's own."""

    memory_limit_mib: int = 256
    processes: int = 64
    """Processes and threads together, with the sandbox's own first process."""
    cpu_limit_s: float | None = None
    """CPU seconds of one process over its whole life; None: the wall limit is the limit."""
    open_files: int = 256
    tmp_mib: int = 64
    network: tuple[str, ...] = ()
    """Hosts (`example.com`, `example.com:8443`, `*.example.com`) reachable through the proxy; none: no network at all."""
    operator_hosts: bool = False
    """The hosts in `network` were named by the operator, not by a function: they may have any address, a private one too."""
    cpus: float = 1.0
    """CPU time per second of wall time, where a cgroup can enforce it."""


@dataclass(frozen=True, slots=True)
class SandboxExit:
    """How a sandbox ended, by the kernel's account; everything in it is dead and reaped."""

    exit_code: int | None
    """Of the runtime's process; None if a signal, or the kill of the whole sandbox, ended it."""
    signal: int | None
    peak_memory_bytes: int
    """Of the whole sandbox where a memory cgroup counts, else of its largest process."""
    cpu_ms: float
    """Of all its processes together."""
    oom_killed: bool
    """The memory cgroup's limit was hit and the kernel killed for it."""
    process_limit_hits: int = 0
    """How often a process or thread was refused by the pids cgroup; 0 where there is none."""
    failure: str = ""
    """Why the runtime could not take over, if it could not: the platform's fault, not the function's."""


def find_python_runtime(folder: Path) -> RuntimeCommand:
    return RuntimeCommand("python", folder)


def find_node_runtime(folder: Path, node: Path, flags: tuple[str, ...] = ()) -> RuntimeCommand:
    """`node` is resolved: a sandbox shows the file itself, in strict mode as `/usr/bin/node` wherever the host has it."""
    return RuntimeCommand("node", folder, (os.path.realpath(node), *flags, "{runtime}/runner.cjs"), NODE_RESERVED_MIB)
