"""Why a submit was refused, and when it is worth trying again.

Knows: what the submit script's refusals mean to a caller. Does not know: when it refuses.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from sandlot.errors import (
    FunctionCrashLoop,
    IdempotencyConflict,
    JobGone,
    NoWorker,
    QueueFull,
    QueueUnavailable,
    SandlotError,
)
from sandlot.models import Invocation
from sandlot.placement import remedy

LONGEST_S: Final = 300.0
UNKNOWN_S: Final = 10.0
"""Nothing of it has ended or runs, so nobody can tell."""


def full(invocation: Invocation, answer: Sequence[bytes]) -> QueueFull:
    """Each who is refused is told of a place of his own (submit.lua), so they do not all come back at once; where nobody can tell, chance parts them."""
    which, depth, wait_ms = answer[1], int(answer[2]), int(answer[3])
    retry_after_s = wait_ms / 1000 if wait_ms >= 0 else UNKNOWN_S * random.uniform(0.9, 1.1)  # noqa: S311  # spread, not secrecy
    whose = f"the queue of {invocation.function!r} holds" if which == b"function" else "all queues together hold"
    return QueueFull(
        f"{whose} {depth} jobs, which is the limit", retry_after_s=min(LONGEST_S, retry_after_s), depth=depth
    )


def crash_loop(invocation: Invocation, rest_ms: int) -> FunctionCrashLoop:
    return FunctionCrashLoop(
        f"{invocation.function!r} has crashed again and again, and is not started for a while; then one call at a time is tried."
        " Its last jobs say how it ended; deploying it again lets calls through at once",
        retry_after_s=rest_ms / 1000,
    )


def no_worker(invocation: Invocation) -> NoWorker:
    return NoWorker(
        f"no live worker can run {invocation.function!r}: it needs one for {invocation.placement!r}. Start one with: {remedy(invocation.placement)}",
        retry_after_s=5.0,
    )


def short_of_memory(percent: int) -> QueueUnavailable:
    return QueueUnavailable(
        f"{percent} % of Redis's memory is used, and the rest is kept for what has been accepted; nothing was submitted",
        retry_after_s=5.0,
        applied="no",
    )


def refusal(invocation: Invocation, answer: Sequence[bytes]) -> SandlotError:
    """Why submit.lua queued nothing."""
    if answer[0] == b"full":
        return full(invocation, answer)
    if answer[0] == b"broken":
        return crash_loop(invocation, int(answer[1]))
    if answer[0] == b"gone":
        job_id = answer[1].decode()
        return JobGone(
            f"the job {job_id} of this idempotency key has ended, and its result is no longer kept", job={"id": job_id}
        )
    if answer[0] == b"conflict":
        return IdempotencyConflict("this idempotency key was used before, for another function or another payload")
    return no_worker(invocation)
