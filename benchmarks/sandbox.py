"""Measure the cost of isolation: cold start, prewarmed start, kill, and memory of idle sandboxes.

    python -m benchmarks.sandbox [--level strict|restricted] [--count 50] [--idle 100]

This needs no queue and no API. It prints one table with medians of `--count` runs. Warm calls are
measured by `benchmarks/pool.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final, Literal

import uvloop
from worker.__main__ import runtime_commands
from worker.sandbox.channel import INIT, REQUEST, Channel, ChannelFailure
from worker.sandbox.host import SandboxHost
from worker.sandbox.sandbox import Sandbox
from worker.sandbox.selftest.trial import init_body, request_bodies
from worker.sandbox.spec import SandboxSpec

PATIENCE_S: Final = 30.0
TARGETS_MS: Final = {
    "python cold": 10.0,
    "python prewarmed": 3.0,
    "node cold": 35.0,
    "node prewarmed": 5.0,
    "kill, 10 daemons": 50.0,
}
IDLE_TARGET_MIB: Final = 400

SOURCES: Final = {
    "main.py": """
import os, signal, time
def handler(event, context):
    if event != "daemons":
        return event
    for _ in range(5):
        if os.fork() == 0:
            try: os.setsid()
            except OSError: pass
            if os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(600)
    time.sleep(0.05)
    return "left"
""",
    "index.mjs": "export const handler = (event) => event;\n",
}


async def measure(level: Literal["auto", "strict", "restricted"], count: int, idle: int) -> None:
    from sandlot.settings import load_settings

    with tempfile.TemporaryDirectory(prefix="sandlot-bench-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - the sandbox runs as another user
        bundle = Path(folder) / "bundle"
        bundle.mkdir(mode=0o755)
        for name, source in SOURCES.items():
            (bundle / name).write_text(source)
        began_s = time.perf_counter()
        async with await SandboxHost.open(
            level=level, runtimes=runtime_commands(load_settings()), state_dir=Path(folder)
        ) as host:
            print(
                f"level {host.level}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, host opened and attacked in {since_ms(began_s):.0f} ms"
            )
            print(f"{'':<28}{'p10':>8}{'median':>8}{'p90':>8}  target")
            for runtime in sorted(host.runtimes, reverse=True):
                show(f"{runtime} cold", [await cold(host, runtime, bundle) for _ in range(count)])
                show(f"{runtime} prewarmed", [await prewarmed(host, runtime, bundle) for _ in range(count)])
                show(
                    f"{runtime} warm call, worker side",
                    [figure for _ in range(2) for figure in await warm(host, runtime, bundle, count * 5)],
                )
            show("kill", [await kill(host, bundle, "quiet") for _ in range(count)])
            show("kill, 10 daemons", [await kill(host, bundle, "daemons") for _ in range(max(5, count // 5))])
            if os.geteuid() == 0:
                show_idle(idle, await idle_memory_mib(host, idle))


async def cold(host: SandboxHost, runtime: str, bundle: Path) -> float:
    """Measure from the request for a sandbox to the first result, with nothing prepared."""
    began_s = time.perf_counter()
    async with called(host, runtime, bundle):
        return since_ms(began_s)


async def prewarmed(host: SandboxHost, runtime: str, bundle: Path) -> float:
    """Measure from a prewarmed sandbox to the first result: mount the bundle, import, call."""
    sandbox = await host.prewarm(runtime, SandboxSpec())
    await at_rest(sandbox)
    began_s = time.perf_counter()
    channel = await call_first(sandbox, bundle, 1)
    took_ms = since_ms(began_s)
    channel.close()
    await end(sandbox)
    return took_ms


async def warm(host: SandboxHost, runtime: str, bundle: Path, count: int) -> list[float]:
    async with called(host, runtime, bundle) as channel:
        figures = []
        for _ in range(count):
            began_s = time.perf_counter()
            await exchange(channel, REQUEST, *request_bodies("x" * 98, PATIENCE_S))
            figures.append(since_ms(began_s))
    return figures


async def kill(host: SandboxHost, bundle: Path, event: str) -> float:
    """Measure from the decision to kill until every process is dead, reaped and accounted for."""
    sandbox = await host.prewarm("python", SandboxSpec())
    channel = await call_first(sandbox, bundle, event)
    channel.close()
    began_s = time.perf_counter()
    sandbox.kill()
    await sandbox.ended()
    took_ms = since_ms(began_s)
    sandbox.close()
    return took_ms


async def idle_memory_mib(host: SandboxHost, count: int) -> float:
    """Return the memory of the sandboxes' processes with their page tables.

    Shared pages count once. The kernel's own objects are not included.
    """
    sandboxes = [await host.prewarm("python", SandboxSpec()) for _ in range(count)]
    for sandbox in sandboxes[-4:]:
        await at_rest(sandbox)
    held_kib = sum(memory_kib(pid) for sandbox in sandboxes for pid in family(sandbox.pid))
    for sandbox in sandboxes:
        await end(sandbox)
    return held_kib / 1024


def family(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [pid, *(int(word) for word in file.read().split())]


def memory_kib(pid: int) -> int:
    """Check for root, which is needed to read the memory of a sandbox's processes."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        pss_kib = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return pss_kib + next(int(line.split()[1]) for line in file if line.startswith("VmPTE"))


async def at_rest(sandbox: Sandbox) -> None:
    """Wait until a sandbox stops using the CPU: one that still starts is not prewarmed."""
    seen_ms = -1.0
    while sandbox.cpu_ms() != seen_ms:
        seen_ms = sandbox.cpu_ms()
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def called(host: SandboxHost, runtime: str, bundle: Path) -> AsyncIterator[Channel]:
    sandbox = await host.prewarm(runtime, SandboxSpec())
    channel = await call_first(sandbox, bundle, 1)
    try:
        yield channel
    finally:
        channel.close()
        await end(sandbox)


async def call_first(sandbox: Sandbox, bundle: Path, event: object) -> Channel:
    await sandbox.start_attach(bundle)
    if not sandbox.waits_inside:
        await sandbox.attached()
    channel = Channel(sandbox.control, complain)
    await exchange(channel, INIT, init_body(sandbox, ""), b"")
    await exchange(channel, REQUEST, *request_bodies(event, PATIENCE_S))
    return channel


async def exchange(channel: Channel, kind: bytes, head: bytes, tail: bytes) -> bytes:
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    channel.exchange(kind, head, tail, PATIENCE_S, lambda _kind, body: answer.set_result(body))
    return await answer


def complain(faulty: ChannelFailure) -> None:
    print(f"the measurement failed: {faulty}", file=sys.stderr)
    os._exit(1)


async def end(sandbox: Sandbox) -> None:
    sandbox.kill()
    await sandbox.ended()
    sandbox.close()


def since_ms(began_s: float) -> float:
    return (time.perf_counter() - began_s) * 1000


def show(name: str, figures_ms: Iterable[float]) -> None:
    figures = sorted(figures_ms)
    tenth, last = figures[len(figures) // 10], figures[len(figures) * 9 // 10]
    target = f"<= {TARGETS_MS[name]:g} ms" if name in TARGETS_MS else ""
    print(f"{name:<28}{tenth:8.2f}{statistics.median(figures):8.2f}{last:8.2f}  {target}")


def show_idle(count: int, used_mib: float) -> None:
    print(f"{f'{count} idle Python sandboxes':<28}{'':8}{used_mib:8.0f}{'':8}  <= {IDLE_TARGET_MIB} MiB for 100")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", choices=("auto", "strict", "restricted"), default="auto")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--idle", type=int, default=100)
    arguments = parser.parse_args()
    uvloop.run(measure(arguments.level, arguments.count, arguments.idle))


if __name__ == "__main__":
    main()
