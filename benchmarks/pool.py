"""Measure the cost of one invocation inside a worker, without Redis and HTTP.

    python -m benchmarks.pool [--level strict] [--calls 3000]

This benchmark does not speak HTTP: it covers the part from the pool through the sandbox to a
handler and back, which every invocation takes and no caller can see alone. It prints medians and
90th percentiles in µs, then throughput and the worker's own CPU time per invocation.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from sandlot.errors import SandlotError
from sandlot.functions import find_node
from sandlot.models import Isolation, Outcome, OutcomeKind, Runtime
from worker.execution import Execution, VersionSpec
from worker.pool import Pool
from worker.sandbox.host import SandboxHost
from worker.sandbox.spec import find_node_runtime, find_python_runtime

SLOTS = 16
EVENT_100_B = b'{"text": "' + b"x" * 88 + b'"}'
GAP_S = 0.05
"""Pause before calls that should find everything idle: the work left by a call takes less."""
SOURCES = {
    Runtime.PYTHON: ("main.py", "def handler(event, context):\n    return event\n"),
    Runtime.NODE: ("index.js", "(event, context) => event\n"),
}


@dataclass
class Bench:
    """A pool and the versions that it can run."""

    pool: Pool
    folder: Path
    specs: dict[tuple[str, str], VersionSpec]
    calls: int = 0

    def deploy(self, runtime: Runtime, isolation: Isolation) -> str:
        name = f"{runtime}-{isolation}"
        file, source = SOURCES[runtime]
        bundle = self.folder / name
        bundle.mkdir(mode=0o755)
        (bundle / file).write_text(source)
        self.specs[name, "digest"] = VersionSpec(name, 1, "digest", runtime, "", bundle, isolation=isolation)
        return name

    def start(self, name: str, event: bytes) -> asyncio.Future[Outcome]:
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(_execution: Execution, outcome: Outcome | SandlotError) -> None:
            if isinstance(outcome, SandlotError):
                ended.set_exception(outcome)
            elif outcome.kind is not OutcomeKind.OK:
                ended.set_exception(RuntimeError(f"{name} ended with {outcome.kind}: {outcome.error}"))
            else:
                ended.set_result(outcome)

        self.calls += 1
        self.pool.start(Execution(f"job-{self.calls}", 1, name, 1, "digest", event, 30_000), done)
        return ended


@contextlib.asynccontextmanager
async def open_bench(level: str) -> AsyncIterator[Bench]:
    runtimes = Path(__file__).parents[1] / "runtimes"
    commands = [find_python_runtime(runtimes / "python")]
    node = find_node("")
    if node is not None:
        flags = tuple(json.loads((runtimes / "node" / "flags.json").read_text()))
        commands.append(find_node_runtime(runtimes / "node", node, flags))
    with tempfile.TemporaryDirectory(prefix="sandlot-bench-") as folder:
        _open_to_others(Path(folder))
        specs: dict[tuple[str, str], VersionSpec] = {}

        async def spec_of(function: str, digest: str) -> VersionSpec:
            return specs[function, digest]

        async with await SandboxHost.open(level=level, runtimes=commands, state_dir=Path(folder) / "state") as host:
            pool = Pool(host, spec_of, SLOTS, prewarmed=4, calls_limit=10**9)
            await pool.open()
            try:
                yield Bench(pool, Path(folder), specs)
            finally:
                await pool.close()


def _open_to_others(folder: Path) -> None:
    """Make the files readable, since functions may run under another uid."""
    folder.chmod(0o755)


async def one_by_one(bench: Bench, name: str, event: bytes, calls: int, gap_s: float) -> list[float]:
    """Return the duration of each call in µs."""
    await bench.start(name, event)
    took: list[float] = []
    for _ in range(calls):
        await asyncio.sleep(gap_s)
        began_s = time.perf_counter()
        await bench.start(name, event)
        took.append((time.perf_counter() - began_s) * 1e6)
    return took


async def all_slots(bench: Bench, name: str, calls: int) -> tuple[float, float, list[float]]:
    """Return invocations per second, worker CPU in µs, and latencies, with all slots busy."""
    await asyncio.gather(*(bench.start(name, EVENT_100_B) for _ in range(SLOTS)))
    took: list[float] = []

    async def slot() -> None:
        for _ in range(calls // SLOTS):
            began_s = time.perf_counter()
            await bench.start(name, EVENT_100_B)
            took.append((time.perf_counter() - began_s) * 1e6)

    cpu_s, began_s = _own_cpu_s(), time.perf_counter()
    await asyncio.gather(*(slot() for _ in range(SLOTS)))
    wall_s = time.perf_counter() - began_s
    return len(took) / wall_s, (_own_cpu_s() - cpu_s) / len(took) * 1e6, took


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _line(label: str, took: Sequence[float]) -> str:
    ordered = sorted(took)
    return f"{label:34} median {statistics.median(ordered):9.0f} us   p90 {ordered[len(ordered) * 9 // 10]:9.0f} us"


async def measure(level: str, calls: int) -> None:
    async with open_bench(level) as bench:
        for runtime in sorted(bench.pool.runtimes):
            warm = bench.deploy(runtime, Isolation.REUSE)
            print(_line(f"{runtime} reuse, 100 B, back to back", await one_by_one(bench, warm, EVENT_100_B, calls, 0)))
            print(_line(f"{runtime} reuse, 100 B, at rest", await one_by_one(bench, warm, EVENT_100_B, 50, GAP_S)))
            for size, many in ((100_000, 200), (6_000_000, 10)):
                event = b'"' + b"x" * size + b'"'
                print(_line(f"{runtime} reuse, {size} B", await one_by_one(bench, warm, event, many, 0)))
            for isolation in (Isolation.FORK, Isolation.SANDBOX):
                if isolation is Isolation.FORK and runtime is Runtime.NODE:
                    continue  # the same as `sandbox` there
                name = bench.deploy(runtime, isolation)
                print(_line(f"{runtime} {isolation}, at rest", await one_by_one(bench, name, EVENT_100_B, 50, GAP_S)))
            rate, cpu_us, took = await all_slots(bench, warm, calls * 5)
            print(
                _line(f"{runtime} reuse, {SLOTS} slots busy", took), f"  {rate:.0f}/s, worker CPU {cpu_us:.1f} us each"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", choices=["auto", "strict", "restricted"], default="auto")
    parser.add_argument("--calls", type=int, default=3000)
    options = parser.parse_args()
    uvloop.run(measure(options.level, options.calls))


if __name__ == "__main__":
    main()
