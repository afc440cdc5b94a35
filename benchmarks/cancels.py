"""Measure how soon a running call ends when it is cancelled, and whether any process remains.

    python -m benchmarks.cancels [--cancels 100]

The function runs in two processes. Cancellations happen one at a time, alternately on an idle
platform and while callers of `hello` keep all other slots busy. The time runs from just before the
DELETE is written until the waiting caller is answered; processes are counted at that moment.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Final

import uvloop

from benchmarks.callers import Caller, callers, request
from benchmarks.overload import SLOTS, platform

LIMIT_MS: Final = 1000.0
"""The promised limit (docs/api.md)."""
PATIENCE_S: Final = 20.0
LINGER: Final = "/v1/functions/linger/invoke"


async def cancelled_ms(some: list[Caller], name: str) -> tuple[float, int]:
    """Start a call and cancel it.

    Returns the time in ms until its caller was answered, and the number of its processes that were
    left at that moment.
    """
    submitter, waiter, killer = some
    keyed = _with_header(request(LINGER, json.dumps(name)), f"Idempotency-Key: {name}")
    submitted = await submitter.call(_with_header(keyed, "Prefer: respond-async"))
    job = f"/v1/jobs/{submitted.document()['id']}"
    waiting = asyncio.create_task(waiter.call(keyed))  # the same job, by its idempotency key
    async with asyncio.timeout(PATIENCE_S):
        while len(pids := _named(name)) < 2:  # noqa: ASYNC110 - another process has no event that this one could wait for
            await asyncio.sleep(0.005)
        began_s = time.monotonic()
        accepted, answer = await asyncio.gather(
            killer.call(f"DELETE {job} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()), waiting
        )
        took_ms = (time.monotonic() - began_s) * 1000
    left = len(set(pids) & set(_named(name)))
    if (accepted.status, answer.status) != (202, 409):
        raise SystemExit(f"cancelling was answered {accepted.status}, and the caller {answer.status} {answer.body!r}")
    return took_ms, left


def _with_header(text: bytes, line: str) -> bytes:
    return text.replace(b"\r\n\r\n", f"\r\n{line}\r\n\r\n".encode(), 1)


def _named(name: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == name:
                found.append(entry.name)
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process ended in the meantime
    return found


@asynccontextmanager
async def busy(port: int, clients: int) -> AsyncIterator[None]:
    """Run this many callers of `hello`, each one call after the other."""

    async def loop(caller: Caller) -> None:
        while True:
            await caller.call(request("/v1/functions/hello/invoke", "{}"))

    async with callers(port, clients) as some:
        tasks = [asyncio.create_task(loop(caller)) for caller in some]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def measure(cancels: int) -> None:
    took: dict[str, list[tuple[float, int]]] = {"idle": [], "busy": []}
    async with platform() as port, callers(port, 3) as some:
        await cancelled_ms(some, "warm-up")
        for number in range(cancels):
            for label, rows in took.items():
                async with busy(port, SLOTS - 1 if label == "busy" else 0):
                    rows.append(await cancelled_ms(some, f"{label}-{number}"))
    print(f"{cancels} cancellations of each; ms from the DELETE to the answer of the call that it ends")
    print("| the platform is | median | 95 % | slowest | later than 1 s | processes left when answered |")
    print("|---|---|---|---|---|---|")
    for label, rows in took.items():
        some_ms = sorted(ms for ms, _ in rows)
        within = some_ms[math.ceil(0.95 * len(some_ms)) - 1]
        late, left = sum(ms > LIMIT_MS for ms in some_ms), sum(left for _, left in rows)
        print(f"| {label} | {median(some_ms):.1f} | {within:.1f} | {some_ms[-1]:.1f} | {late} | {left} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cancels", type=int, default=100, help="on the idle platform, and as many on the busy one")
    options = parser.parse_args()
    uvloop.run(measure(options.cancels))


if __name__ == "__main__":
    main()
