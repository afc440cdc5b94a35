"""A module that every Python process started with this folder on its PYTHONPATH imports.

It records how late the process's uvloop is. Processes without a loop, or without a named file, are
left alone. Each line of `$SANDLOT_BENCH_LAG/<pid>` has a time (CLOCK_MONOTONIC, s), the lateness of
a timer in ms if it is above `NOTED_MS`, and the part of it during which the machine had no CPU for
the loop's thread (run_delay of proc_pid_schedstat(5)).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from time import monotonic
from typing import TypeVar

T = TypeVar("T")
INTERVAL_S = 0.002
NOTED_MS = 3.0


async def _watch(path: str) -> None:
    loop = asyncio.get_running_loop()
    schedstat = f"/proc/self/task/{threading.get_native_id()}/schedstat"
    with open(path, "a", buffering=1) as file, open(schedstat, "rb", buffering=0) as waits:  # noqa: ASYNC230  # a line now and then, into a file on tmpfs or page cache
        while True:
            waited_ms = _waited_ms(waits.fileno())
            due_s = monotonic() + INTERVAL_S
            turn: asyncio.Future[None] = loop.create_future()
            loop.call_later(INTERVAL_S, turn.set_result, None)
            await turn
            late_ms = (monotonic() - due_s) * 1000
            if late_ms > NOTED_MS:
                waited_ms = _waited_ms(waits.fileno()) - waited_ms
                file.write(f"{monotonic():.4f} {late_ms:.2f} {min(waited_ms, late_ms):.2f}\n")


def _waited_ms(descriptor: int) -> float:
    return int(os.pread(descriptor, 100, 0).split()[1]) / 1e6


def _install(folder: str) -> None:
    import uvloop

    run = uvloop.run

    def watched_run(main: Coroutine[object, object, T], **options: bool) -> T:
        async def both() -> T:
            watch = asyncio.create_task(_watch(f"{folder}/{os.getpid()}"))
            try:
                return await main
            finally:
                watch.cancel()

        return run(both(), **options)

    uvloop.run = watched_run


if folder := os.environ.get("SANDLOT_BENCH_LAG"):
    _install(folder)
