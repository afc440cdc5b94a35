"""A profile of one call: CPU by process, time by stage as Sandlot reports it, and the busiest
functions.

It uses Server-Timing, Valkey's command statistics and py-spy's raw format.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import load, process_tree
from benchmarks.contenders import SANDLOT, cpu_count
from benchmarks.environment import ROOT, Environment
from benchmarks.hosting import Hosted, hosted
from benchmarks.load import Load
from benchmarks.process_tree import Process
from benchmarks.rounds import WARM_UP_S
from benchmarks.servers import ServerFailed
from benchmarks.workloads import HELLO

LOAD_S: Final = 8.0
SAMPLES_PER_S: Final = 250
CALLS: Final = 300
BUSIEST: Final = 18
COMMANDS: Final = 12
IDLE_THREAD: Final = "_worker (concurrent/futures/thread.py)"
ROLES: Final = ("API", "worker", "sandboxes", "Valkey", "sandlot up")


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile of `hello`, by number of clients.

    `cpu_us` is per call and role. `commands` lists the commands that Valkey executed per call, and
    the µs that each took. `stages_ms` are medians of Server-Timing with one client. `busiest` is by
    role.
    """

    loads: Mapping[int, Load]
    cpu_us: Mapping[int, Mapping[str, float]]
    commands: Mapping[int, list[tuple[str, float, float]]]
    stages_ms: Mapping[str, float]
    busiest: Mapping[str, list[tuple[str, float]]]


def role_of(argv: list[str]) -> str:
    """Return a process's role from its command line; the worker's children are `sandboxes`."""
    if any("valkey-server" in word for word in argv[:1]):
        return "Valkey"
    if argv[-2:] == ["-m", "api"]:
        return "API"
    if argv[-2:] == ["-m", "worker"]:
        return "worker"
    return "sandlot up" if "up" in argv[1:3] else "sandboxes"


def cpu_by_role(processes: Mapping[int, Process], roles: Mapping[int, str]) -> dict[str, float]:
    """Return the CPU seconds so far, by role."""
    return {
        role: process_tree.cpu_s(processes, [pid for pid, of in roles.items() if of == role and pid in processes])
        for role in ROLES
    }


def parse_server_timing(header: str) -> dict[str, float]:
    """Parse `name;dur=1.25, …` (the W3C's Server-Timing) into milliseconds by name."""
    return {name: float(ms) for name, ms in re.findall(r"([\w-]+)\s*;\s*dur=([\d.]+)", header)}


def parse_command_stats(text: str, calls: int) -> list[tuple[str, float, float]]:
    """Parse INFO commandstats into (command, executions per call, µs per execution).

    The command with the most time comes first; the time of a script is in its EVALSHA.
    """
    found = re.findall(r"^cmdstat_(\S+?):calls=(\d+),usec=(\d+)", text, re.MULTILINE)
    stats = sorted(((int(us), name, int(count)) for name, count, us in found), reverse=True)
    return [(name, count / calls, us / count) for us, name, count in stats]


def own_time(lines: Iterable[str], root: str) -> list[tuple[str, float]]:
    """Return the innermost function of each sample and its share, the largest first.

    A line of py-spy's raw format is "outer (file:line);inner (file:line) COUNT". Lines of one
    function are added up, and `root` is cut from paths. Threads of a pool that wait for work are
    left out: py-spy takes them for busy where it cannot see their state.
    """
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rstrip().rpartition(" ")
        if stack:
            innermost = re.sub(r":\d+\)$", ")", stack.split(";")[-1])
            if innermost != IDLE_THREAD:
                counts[innermost.replace(root, "").replace("(/", "(")] += int(count)
    total = sum(counts.values())
    return [(name, count / total) for name, count in counts.most_common()]


def profile(environment: Environment) -> Profile:
    """Profile Sandlot alone, as `sandlot up` starts it.

    Raises:
        ServerFailed: it did not start or answer.
        LoadFailed: wrk did not run.
    """
    with hosted(SANDLOT, environment, cpu_count()) as host:
        load.run(host.url(HELLO.function), HELLO.event, {}, clients=64, duration_s=WARM_UP_S)
        stages_ms = _stages(host)
        loads, cpu_us, commands = {}, {}, {}
        for clients in (1, 64):
            _ask_valkey("CONFIG RESETSTAT")
            loads[clients], cpu_us[clients] = _cpu(host, clients)
            commands[clients] = parse_command_stats(_ask_valkey("INFO commandstats"), loads[clients].requests)
        return Profile(loads, cpu_us, commands, stages_ms, _busiest(host, environment))


def _roles() -> dict[int, str]:
    pids = process_tree.descendants(process_tree.snapshot(), os.getpid())
    return {pid: role_of(_argv(pid)) for pid in pids}


def _argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []  # it ended after the listing


def _cpu(host: Hosted, clients: int) -> tuple[Load, dict[str, float]]:
    roles = _roles()
    before = cpu_by_role(process_tree.snapshot(), roles)
    found = load.run(host.url(HELLO.function), HELLO.event, {}, clients=clients, duration_s=LOAD_S)
    after = cpu_by_role(process_tree.snapshot(), roles | _roles())
    return found, {role: (after[role] - before[role]) / found.requests * 1e6 for role in ROLES}


def _ask_valkey(command: str) -> str:
    """Send one inline command to the embedded Valkey and return its reply as text.

    The socket's path comes from Valkey's process title.
    """
    titles = [_argv(pid) for pid, role in _roles().items() if role == "Valkey"]
    path = re.search(r"unixsocket:(\S+)", " ".join(word for title in titles for word in title))
    if path is None:
        raise ServerFailed("the embedded Valkey is not to be found among Sandlot's processes")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path[1])
        connection.sendall(f"{command}\r\nQUIT\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def _stages(host: Hosted) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", host.place.port, timeout=10)
    seen: dict[str, list[float]] = {}
    try:
        for _ in range(CALLS):
            connection.request(
                "POST",
                host.contender.path.format(function=HELLO.function),
                HELLO.event,
                {"Content-Type": "application/json"},
            )
            reply = connection.getresponse()
            reply.read()
            for name, ms in parse_server_timing(reply.headers.get("Server-Timing", "")).items():
                seen.setdefault(name, []).append(ms)
    finally:
        connection.close()
    return {name: median(values) for name, values in seen.items()}


def _busiest(host: Hosted, environment: Environment) -> dict[str, list[tuple[str, float]]]:
    """Sample the API and the worker with py-spy while 64 clients call.

    Sampling slows both, so only shares are kept.
    """
    watched = {role: pid for pid, role in _roles().items() if role in ("API", "worker")}
    found: dict[str, list[tuple[str, float]]] = {}
    for role, pid in watched.items():
        raw = host.place.run_dir / f"{role}.raw"
        loading = threading.Thread(
            target=load.run,
            args=(host.url(HELLO.function), HELLO.event, {}),
            kwargs={"clients": 64, "duration_s": LOAD_S},
        )
        loading.start()
        try:
            _record(environment, pid, raw)
        finally:
            loading.join()
        with raw.open(encoding="utf-8") as lines:
            found[role] = own_time(lines, str(ROOT))[:BUSIEST]
    return found


def _record(environment: Environment, pid: int, raw: Path) -> None:
    spy = str(environment.python.with_name("py-spy"))
    argv = [spy, "record", "--pid", str(pid), "--duration", str(round(LOAD_S) - 2), "--rate", str(SAMPLES_PER_S)]
    ran = subprocess.run(
        [*argv, "--format", "raw", "--output", str(raw)],
        capture_output=True,
        text=True,
        timeout=LOAD_S + 30,
        check=False,
    )
    if ran.returncode != 0:
        raise ServerFailed(f"py-spy ended with {ran.returncode}: {ran.stderr.strip()[-300:]}")


def markdown(found: Profile) -> str:
    """Return the profile as tables."""
    clients = sorted(found.loads)
    parts = [
        "| CPU µs per call | " + " | ".join(f"{count} client(s)" for count in clients) + " |",
        "|---" * (len(clients) + 1) + "|",
    ]
    parts += [
        f"| {role} | " + " | ".join(f"{found.cpu_us[count][role]:.0f}" for count in clients) + " |" for role in ROLES
    ]
    parts += ["| all | " + " | ".join(f"{sum(found.cpu_us[count].values()):.0f}" for count in clients) + " |"]
    parts += [
        "| calls/s, p50 ms | "
        + " | ".join(f"{found.loads[count].per_s:,.0f}, {found.loads[count].p50_ms:.2f}" for count in clients)
        + " |"
    ]
    for count in clients:
        parts += ["", f"| Valkey, {count} client(s) | per call | µs each |", "|---|---|---|"]
        parts += [
            f"| `{name}` | {per_call:.2f} | {us:.1f} |" for name, per_call, us in found.commands[count][:COMMANDS]
        ]
    parts += [
        "",
        "| stage, 1 client | median ms |",
        "|---|---|",
        *(f"| {name} | {ms:.3f} |" for name, ms in found.stages_ms.items()),
    ]
    for role, functions in found.busiest.items():
        parts += [
            "",
            f"| {role}: own time of | share |",
            "|---|---|",
            *(f"| `{name}` | {share:.1%} |" for name, share in functions),
        ]
    return "\n".join(parts) + "\n"
