"""Offloading of work on large amounts of data, so that it does not block the event loop.

C code holds the GIL while it works. A thread gives the GIL up only between two calls into C, and
only when another thread has waited for the switch interval. Work in a thread therefore proceeds
chunk by chunk, and the interval is as short as one chunk: otherwise the loop would wait in spite of
the thread, each time it returns from the kernel.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Final, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

OFFLOAD_BYTES: Final = 128 * 1024
"""Up to this size, work runs on the loop: checking, hashing or encoding it takes less than 0.5 ms.

A thread costs a tenth of that, and more on a busy machine.
"""
CHUNK_BYTES: Final = 192 * 1024
"""Size that the most expensive single call processes in about 0.5 ms.

A multiple of 3 and of 4, so that base64 can be split there.
"""
SWITCH_INTERVAL_S: Final = 0.0005
"""Duration of one chunk.

Python's default of 5 ms, which one turn of the loop can wait for several times, made the loop 10 to
20 ms late (docs/benchmarks.md).
"""


def shorten_switch_interval() -> None:
    """Shorten the switch interval to `SWITCH_INTERVAL_S`; for processes with an event loop.

    A computing thread then gives up the GIL as soon as the loop has waited for one chunk.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


async def offload(size_bytes: int, call: Callable[Given, Result], *given: Given.args, **more: Given.kwargs) -> Result:
    """Return the result of `call`.

    It runs in a thread if it works on more than `OFFLOAD_BYTES`, else at once.
    """
    if size_bytes <= OFFLOAD_BYTES:
        return call(*given, **more)
    return await asyncio.to_thread(call, *given, **more)


def iter_chunks(data: bytes, overlap_bytes: int = 0) -> Iterator[memoryview]:
    """Yield `data` in chunks, without copying.

    Each chunk but the last extends `overlap_bytes` into the next.
    """
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES + overlap_bytes]
