"""A module that every Python process started with this folder on its PYTHONPATH imports.

It records the source files that the thread of the process's event loop enters, while the file `on`
exists in `$SANDLOT_BENCH_TRACE`. The recording is written to `<pid>` there when `on` is removed: a
line with the time (CLOCK_MONOTONIC, s) and the path for each change from one file to another.
Processes that do not run uvloop, or without the variable, are left alone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from time import monotonic
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
INTERVAL_S = 0.005


async def _record(folder: str) -> None:
    switch, target = os.path.join(folder, "on"), os.path.join(folder, str(os.getpid()))
    while True:
        while not os.path.exists(switch):  # noqa: ASYNC110, ASYNC240 - another process makes the file
            await asyncio.sleep(INTERVAL_S)
        entries: list[tuple[float, str]] = []

        def note(frame: FrameType, event: str, _argument: object, entries: list[tuple[float, str]] = entries) -> None:
            path = frame.f_code.co_filename
            if event == "call" and path != __file__ and (not entries or entries[-1][1] != path):
                entries.append((monotonic(), path))

        sys.setprofile(note)
        while os.path.exists(switch):  # noqa: ASYNC110, ASYNC240 - another process removes it
            await asyncio.sleep(INTERVAL_S)
        sys.setprofile(None)
        with open(f"{target}.new", "w") as file:  # noqa: ASYNC230 - a few lines, between two calls
            file.writelines(f"{at:.6f} {path}\n" for at, path in entries)
        os.rename(f"{target}.new", target)


def _install(folder: str) -> None:
    import uvloop

    run = uvloop.run

    def traced_run(main: Coroutine[object, object, T], **options: bool) -> T:
        async def both() -> T:
            recording = asyncio.create_task(_record(folder))
            try:
                return await main
            finally:
                recording.cancel()

        return run(both(), **options)

    uvloop.run = traced_run


if folder := os.environ.get("SANDLOT_BENCH_TRACE"):
    _install(folder)
