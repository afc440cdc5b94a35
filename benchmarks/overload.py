"""Measure throughput under overload, and whether `Retry-After` is accurate.

    python -m benchmarks.overload [--rounds 3] [--seconds 8] [--run-ms 20 100 1000]

The function waits instead of computing, since the load runs on the same cores.

*Peak* is a closed loop of as many callers as keep all slots busy. *Five-fold* sends five times the
peak's rate, whatever the answers are. A good answer is a 200 at most one second later than a full
queue takes, counted from the moment at which the request was due. *Retry-After*: five times as many
callers arrive at once as slots and queue have places. Each waits as long as its `Retry-After` says
and asks again. The figure is the time until a caller was admitted, divided by its first
`Retry-After`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import uvloop

from benchmarks import hosting
from benchmarks.callers import Caller, callers, request
from benchmarks.servers import clean_environment

FUNCTIONS: Final = Path(__file__).with_name("functions")
SLOTS: Final = 8
QUEUE_LIMIT: Final = 64
OVERLOAD: Final = 5
SPARE_S: Final = 1.0
"""Extra time that a good answer may take beyond a full queue and its own run."""
CONNECTIONS: Final = 400
TICK_S: Final = 0.005
START_LIMIT_S: Final = 60.0


def _wait(run_s: float) -> bytes:
    return request("/v1/functions/wait/invoke", json.dumps({"s": run_s}))


async def peak(port: int, run_s: float, seconds: float) -> float:
    """Return answers per second with every slot busy and a few callers waiting."""
    done, event = 0, _wait(run_s)
    ends_s = time.monotonic() + seconds

    async def loop(caller: Caller) -> None:
        nonlocal done
        while time.monotonic() < ends_s:
            answer = await caller.call(event)
            done += answer.status == 200 and time.monotonic() < ends_s

    async with callers(port, 2 * SLOTS) as some:
        await asyncio.gather(*map(loop, some))
    return done / seconds


async def flood(port: int, run_s: float, rate: float, seconds: float) -> tuple[float, float, float]:
    """Return good answers per second, requests sent per second, and the share refused."""
    good = refused = sent = 0
    event = _wait(run_s)
    deadline_s = run_s * (QUEUE_LIMIT / SLOTS + 1) + SPARE_S
    ends_s = time.monotonic() + seconds
    free: asyncio.Queue[Caller] = asyncio.Queue()
    tasks: set[asyncio.Task[None]] = set()

    async def one(caller: Caller, due_s: float) -> None:
        nonlocal good, refused
        answer = await caller.call(event)
        good += answer.status == 200 and time.monotonic() < min(due_s + deadline_s, ends_s)
        refused += answer.status in (429, 503)
        free.put_nowait(caller)

    async with callers(port, CONNECTIONS) as some:
        for caller in some:
            free.put_nowait(caller)
        began_s = ends_s - seconds
        while (now_s := time.monotonic()) < ends_s:
            while sent < (now_s - began_s) * rate and not free.empty():
                task = asyncio.create_task(one(free.get_nowait(), began_s + sent / rate))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent += 1
            await asyncio.sleep(TICK_S)
        await asyncio.gather(*tasks)
    return good / seconds, sent / seconds, refused / max(sent, 1)


async def turned_away(port: int, run_s: float, seconds: float) -> tuple[list[float], float]:
    """Return each refused caller's ratio of real to promised wait, and answers per second."""
    ratios: list[float] = []
    done, event = 0, _wait(run_s)

    async def come(caller: Caller) -> None:
        nonlocal done
        began_s, promised_s, let_in_s = time.monotonic(), 0.0, 0.0
        while (answer := await caller.call(event)).status != 200:
            wait_s = float(str(answer.document()["retry_after_s"]))
            promised_s = promised_s or wait_s
            caller.close()  # the server closes idle connections after some time
            await asyncio.sleep(wait_s)
            let_in_s = time.monotonic() - began_s
        done += 1
        if promised_s:
            ratios.append(let_in_s / promised_s)

    began_s = time.monotonic()
    while time.monotonic() < began_s + seconds:
        async with callers(port, OVERLOAD * (QUEUE_LIMIT + SLOTS)) as some:
            await asyncio.gather(*map(come, some))
    return ratios, done / (time.monotonic() - began_s)


@asynccontextmanager
async def platform() -> AsyncIterator[int]:
    with tempfile.TemporaryDirectory(prefix="overload-") as folder:
        port = hosting.free_port()
        words = ["-m", "sandlot", "up", "--port", str(port), "--data", f"{folder}/data", "--functions", str(FUNCTIONS)]
        limits = {"SANDLOT_SLOTS": str(SLOTS), "SANDLOT_QUEUE_LIMIT_PER_FUNCTION": str(QUEUE_LIMIT)}
        up = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            env=clean_environment() | limits, cwd=FUNCTIONS.parent.parent,
        )  # fmt: skip
        try:
            async with asyncio.timeout(START_LIMIT_S):
                while not await _answers(port):  # noqa: ASYNC110 - another process has no event that this one could wait for
                    await asyncio.sleep(0.2)
            yield port
        finally:
            up.send_signal(signal.SIGINT)
            await up.wait()


async def _answers(port: int) -> bool:
    caller = Caller(port)
    try:
        return (await caller.call(_wait(0.0))).status == 200
    except OSError:
        return False
    finally:
        caller.close()


async def measure(rounds: int, seconds: float, runs_ms: Sequence[float]) -> None:
    async with platform() as port:
        print(
            f"{SLOTS} slots, {QUEUE_LIMIT} places in the queue; medians of {rounds} rounds of {seconds:g} s, in turns"
        )
        print(
            "| function takes | peak, calls/s | five-fold: sent/s | refused | good/s | of the peak | Retry-After: took / promised, median | p90 | calls/s of callers that obey it |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for run_s in (run_ms / 1000 for run_ms in runs_ms):
            length_s = max(seconds, 20 * run_s)
            rows = []
            for _ in range(rounds):
                top = await peak(port, run_s, length_s)
                good, sent, refused = await flood(port, run_s, OVERLOAD * top, length_s)
                ratios, obeying = await turned_away(port, run_s, length_s)
                rows.append((top, sent, refused, good, good / top, median(ratios), quantiles(ratios, n=10)[8], obeying))
            top, sent, refused, good, share, middle, most, obeying = (
                median(column) for column in zip(*rows, strict=True)
            )
            print(
                f"| {run_s * 1000:g} ms | {top:.0f} | {sent:.0f} | {refused:.0%} | {good:.0f} | {share:.2f} | {middle:.2f} | {most:.2f} | {obeying:.0f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument(
        "--run-ms", type=float, nargs="+", default=(20.0, 100.0, 1000.0), help="how long the function waits"
    )
    options = parser.parse_args()
    uvloop.run(measure(options.rounds, options.seconds, options.run_ms))


if __name__ == "__main__":
    main()
