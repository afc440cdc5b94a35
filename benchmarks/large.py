"""Measure how a call with an event and a result of 6 MiB affects other calls.

    python -m benchmarks.large [--calls 20] [--mib 6]

It reports how late the event loops of API and worker are, and their memory. The machine itself adds
lateness. Calls of `hello` alone, alternating with the large ones, show how much, and the time that
the loop's thread waited for a CPU is reported separately.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import hosting, process_tree
from benchmarks.servers import clean_environment
from benchmarks.stages import role_of

FUNCTIONS: Final = Path(__file__).with_name("functions")
LAG: Final = Path(__file__).with_name("lag")
ROLES: Final = ("API", "worker")
START_LIMIT_S: Final = 60.0
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Platform:
    """A running `sandlot up` whose event loops are watched; `pids` is by role."""

    port: int
    lag_dir: Path
    pids: dict[str, int]

    def ask(self, function: str, event: str) -> bytes:
        status, body = hosting.ask(self.port, f"/v1/functions/{function}/invoke", event, {})
        if status != 200:
            raise SystemExit(f"{function} answered {status}: {body[:300]!r}")
        return body

    def latest_ms(self, role: str, began_s: float, ended_s: float) -> tuple[float, float]:
        """Return the loop's greatest lateness in this time, with and without its wait for a CPU."""
        path = self.lag_dir / str(self.pids[role])
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        moments = [tuple(map(float, line.split())) for line in lines]
        here = [(late, late - waited) for at, late, waited in moments if began_s <= at <= ended_s + 0.05]
        return max((late for late, _ in here), default=0.0), max((own for _, own in here), default=0.0)


@contextmanager
def platform() -> Iterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="large-") as folder:
        lag_dir = Path(folder, "lag")
        lag_dir.mkdir()
        port = hosting.free_port()
        command = [
            sys.executable,
            "-m",
            "sandlot",
            "up",
            "--port",
            str(port),
            "--data",
            f"{folder}/data",
            "--functions",
            str(FUNCTIONS),
        ]
        watched = {"SANDLOT_BENCH_LAG": str(lag_dir), "PYTHONPATH": str(LAG), "SANDLOT_SANDBOX": "strict"}
        up = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=clean_environment() | watched,
            cwd=FUNCTIONS.parent.parent,
        )
        try:
            _wait_until(lambda: _answers(port), up)
            yield Platform(port, lag_dir, _pids(up.pid))
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(START_LIMIT_S)


def _answers(port: int) -> bool:
    try:
        return all(hosting.ask(port, f"/v1/functions/{name}/invoke", "{}", {})[0] == 200 for name in ("hello", "echo"))
    except (OSError, http.client.HTTPException):
        return False


def _wait_until(condition: Callable[[], bool], up: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while not condition():
        if up.poll() is not None or time.monotonic() > deadline_s:
            raise SystemExit("sandlot up did not start; run it by hand to see why")
        time.sleep(0.1)


def _pids(root: int) -> dict[str, int]:
    found = {}
    for pid in process_tree.descendants(process_tree.snapshot(), root):
        argv = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
        found.setdefault(role_of(argv), pid)
    return {role: found[role] for role in ROLES}


def document(size_bytes: int) -> str:
    """Return JSON of about this size with many small values, the most expensive kind to check."""
    records = [{"id": number, "name": f"n{number}", "value": number / 7, "ok": True} for number in range(100_000)]
    text = json.dumps(records)
    return json.dumps(records[: int(len(records) * size_bytes / len(text))])


def _memory_bytes(pid: int, field: str) -> int:
    """Return VmRSS or VmHWM from proc_pid_status(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def measure(calls: int, size_bytes: int) -> None:
    event = document(size_bytes)
    with platform() as here:
        rest: dict[str, list[tuple[float, float]]] = {role: [] for role in ROLES}
        large: dict[str, list[tuple[float, float]]] = {role: [] for role in ROLES}
        copies: dict[str, list[float]] = {role: [] for role in ROLES}
        took_ms = []
        idle = {role: _memory_bytes(here.pids[role], "VmRSS") for role in ROLES}
        here.ask("echo", event)
        for _ in range(calls):
            began_s = time.monotonic()
            for _ in range(20):
                here.ask("hello", "{}")
            _note(here, rest, began_s)
            for role in ROLES:
                _reset_peak(here.pids[role])
            began_s = time.monotonic()
            answer = here.ask("echo", event)
            took_ms.append((time.monotonic() - began_s) * 1000)
            _note(here, large, began_s)
            for role in ROLES:
                copies[role].append((_memory_bytes(here.pids[role], "VmHWM") - idle[role]) / len(event))
            if len(answer) < size_bytes // 2:
                raise SystemExit(f"echo answered {len(answer)} bytes to {len(event)}")
    print(f"event and result of {len(event) / MIB:.1f} MiB, {calls} calls, median {median(took_ms):.0f} ms each")
    print(
        "|  | loop late by at most, ms: median / worst | without waiting for a CPU | beside it, `hello` alone | peak memory beyond a process that has seen no large call, in copies |\n|---|---|---|---|---|"
    )
    for role in ROLES:
        print(
            f"| {role} | {_spread(late for late, _ in large[role])} | {_spread(own for _, own in large[role])} | {_spread(late for late, _ in rest[role])} | {median(copies[role]):.1f} |"
        )


def _spread(some_ms: Iterable[float]) -> str:
    known = list(some_ms)
    return f"{median(known):.1f} / {max(known):.1f}"


def _note(here: Platform, into: dict[str, list[tuple[float, float]]], began_s: float) -> None:
    ended_s = time.monotonic()
    time.sleep(0.02)  # the watch writes once its timer has fired
    for role in ROLES:
        into[role].append(here.latest_ms(role, began_s, ended_s))


def _reset_peak(pid: int) -> None:
    """Reset VmHWM (proc_pid_clear_refs(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--mib", type=float, default=5.9, help="of the event; the limit is 6")
    options = parser.parse_args()
    process_tree.adopt_orphans()
    measure(options.calls, round(options.mib * MIB))


if __name__ == "__main__":
    main()
