"""Wait in tests for conditions that other processes, connections or tasks bring about.

A deadline here only ends a hang: it is generous, so that a busy machine never decides a test.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, cast

HANG_S: Final = 180.0
"""At a load of 20 on two cores a platform takes up to a minute to start."""
PAUSE_S: Final = 0.01

_Found = TypeVar("_Found")


def _no_reason() -> str:
    return ""


def until(
    condition: Callable[[], _Found], deadline_s: float = HANG_S, reason: Callable[[], str] = _no_reason
) -> _Found:
    """Block until the condition is true, and return its value.

    Raises:
        AssertionError: the deadline passed; the message ends with `reason()`.
    """
    ends_s = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < ends_s, f"not true within {deadline_s:.0f} s: {reason()}"
        time.sleep(PAUSE_S)
    return found


async def eventually(
    condition: Callable[[], _Found | Awaitable[_Found]],
    deadline_s: float = HANG_S,
    reason: Callable[[], str] = _no_reason,
) -> _Found:
    """Wait on the event loop until the condition, a function or a coroutine function, is true.

    Raises:
        AssertionError: the deadline passed; the message ends with `reason()`.
    """
    ends_s = time.monotonic() + deadline_s
    while True:
        value = condition()
        found = await cast("Awaitable[_Found]", value) if inspect.isawaitable(value) else cast("_Found", value)
        if found:
            return found
        assert time.monotonic() < ends_s, f"not true within {deadline_s:.0f} s: {reason()}"
        # A condition of this loop's own tasks needs only a turn; another process needs the pause.
        await asyncio.sleep(PAUSE_S)
