"""List the source files of Sandlot that one warm call of `hello` runs through.

    python -m benchmarks.call_path [--calls 20]

A `sandlot up` runs with `benchmarks/trace` in its processes. Each of the traced calls records the
files that the event loops of API and worker enter from the request until shortly after the answer.
Files that do not occur in every call belong to other work (heartbeats, timers) and are left out, so
the result is reproducible. The sandbox is not traced: it runs the runtime and the function.
"""

from __future__ import annotations

import argparse
import http.client
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sandlot

from benchmarks import hosting, process_tree
from benchmarks.servers import clean_environment
from benchmarks.stages import role_of

PROJECT: Final = Path(sandlot.__file__).resolve().parent.parent
HERE: Final = Path(__file__).resolve().parent
PACKAGES: Final = ("sandlot", "api", "worker")
ROLES: Final = ("API", "worker")
START_LIMIT_S: Final = 30.0
WARM_UP_CALLS: Final = 50
SWITCH_S: Final = 0.05
"""Pause until both processes have noticed the switch: they look for it every 5 ms."""
AFTER_S: Final = 0.02
"""Time after the answer in which the worker finishes its bookkeeping."""
PATH: Final = "/v1/functions/hello/invoke"


@dataclass(frozen=True, slots=True)
class Platform:
    """A running `sandlot up` with a recorder in its processes; `pids` is by role."""

    port: int
    folder: Path
    pids: dict[str, int]

    def trace(self) -> list[tuple[float, str]]:
        """Make one call and return (time, file) for each file that it enters, in order of time."""
        files = [self.folder / str(self.pids[role]) for role in ROLES]
        for file in files:
            file.unlink(missing_ok=True)
        switch = self.folder / "on"
        switch.touch()
        time.sleep(SWITCH_S)
        began_s = time.monotonic()
        status, body = hosting.ask(self.port, PATH, "{}", {})
        time.sleep(AFTER_S)
        ended_s = time.monotonic()
        switch.unlink()
        if status != 200:
            raise SystemExit(f"hello answered {status}: {body[:300]!r}")
        _wait_until(lambda: all(file.exists() for file in files), "a process wrote no recording")
        entries = [line.split(" ", 1) for file in files for line in file.read_text().splitlines()]
        return sorted((float(at), path) for at, path in entries if began_s <= float(at) <= ended_s)


@contextmanager
def platform() -> Iterator[Platform]:
    """Start `sandlot up` with its defaults and strict sandboxes, and warm `hello` up."""
    with tempfile.TemporaryDirectory(prefix="call-path-") as name:
        folder = Path(name, "trace")
        folder.mkdir()
        port = hosting.free_port()
        options = ["--port", str(port), "--data", f"{name}/data", "--functions", str(HERE / "functions")]
        variables = {
            "SANDLOT_BENCH_TRACE": str(folder),
            "PYTHONPATH": f"{HERE / 'trace'}:{PROJECT}",
            "SANDLOT_SANDBOX": "strict",
        }
        up = subprocess.Popen(
            [sys.executable, "-m", "sandlot", "up", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=clean_environment() | variables,
            cwd=PROJECT,
        )
        try:
            _wait_until(lambda: up.poll() is not None or _answers(port), "sandlot up did not start")
            for _ in range(WARM_UP_CALLS):
                hosting.ask(port, PATH, "{}", {})
            yield Platform(port, folder, _pids(up.pid))
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(START_LIMIT_S)


def _answers(port: int) -> bool:
    try:
        return hosting.ask(port, PATH, "{}", {})[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _wait_until(condition: Callable[[], bool], failure: str) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(failure)
        time.sleep(0.01)


def _pids(root: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for pid in process_tree.descendants(process_tree.snapshot(), root):
        argv = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
        found.setdefault(role_of(argv), pid)
    return {role: found[role] for role in ROLES}


def own_files(entries: list[tuple[float, str]]) -> list[str]:
    """Return Sandlot's files among the entries, relative to the project, by first entry."""
    inside = [Path(path).relative_to(PROJECT) for _, path in entries if path.startswith(f"{PROJECT}/")]
    return list(dict.fromkeys(str(path) for path in inside if path.parts[0] in PACKAGES))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.call_path", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--calls", type=int, default=20, metavar="N", help="traced calls (default: 20)")
    calls = parser.parse_args().calls
    with platform() as running:
        traces = [own_files(running.trace()) for _ in range(calls)]
    common = set.intersection(*map(set, traces))
    path = [file for file in traces[-1] if file in common]
    for number, file in enumerate(path, 1):
        print(f"{number:3} {file}")
    print(f"{len(path)} files")


if __name__ == "__main__":
    main()
