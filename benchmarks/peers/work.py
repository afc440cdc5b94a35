"""The functions that every Python peer serves, and two more for draining queues."""

import os
import time
from typing import Any

CPU_S = 0.005


def hello() -> dict[str, str]:
    return {"message": "it works!", "status": "ok "}


def echo(event: Any) -> Any:
    return event


def cpu() -> dict[str, bool]:
    """Burn 5 ms of this thread's CPU clock, so that waiting for a core does not count."""
    until_s = time.thread_time() + CPU_S
    while time.thread_time() < until_s:
        pass
    return {"done": True}


def noop() -> None:
    return None


def mark(index: int) -> None:
    """Append "index, monotonic seconds" to the file that BENCH_MARKS names.

    CLOCK_MONOTONIC is one clock for the whole machine (clock_gettime(2)).
    """
    with open(os.environ["BENCH_MARKS"], "a", encoding="ascii") as marks:
        marks.write(f"{index} {time.monotonic():.6f}\n")
