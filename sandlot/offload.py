"""The one door through which work on many bytes leaves the event loop.

Knows: how many bytes are many. Does not know: what is done with them.
C code holds Python's lock while it works and gives it up only between two calls, if somebody has waited for it long enough: what is done here
goes piece by piece, or the loop waits all the same, and it waits each time it comes back from the kernel.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Final, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

OFFLOAD_BYTES: Final = 128 * 1024
"""Less is checked, hashed or encoded in under half a millisecond; a thread costs a tenth of that and more when the machine is busy."""
CHUNK_BYTES: Final = 192 * 1024
"""The dearest single call takes about 0.5 ms over so many. A multiple of 3 and of 4, so that base64 can be cut there."""
SWITCH_INTERVAL_S: Final = 0.0005
"""As long as one piece takes; Python's 5 ms, waited for several times in one turn of the loop, made it 10 to 20 ms late (docs/benchmarks.md)."""


def shorten_switch_interval() -> None:
    """For a process with an event loop: a thread that computes gives Python's lock up as soon as the loop has waited for one piece."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


async def offload(size_bytes: int, call: Callable[Given, Result], *given: Given.args, **more: Given.kwargs) -> Result:
    """What `call` returns, worked out in a thread if it is about more than `OFFLOAD_BYTES`, else at once."""
    if size_bytes <= OFFLOAD_BYTES:
        return call(*given, **more)
    return await asyncio.to_thread(call, *given, **more)


def iter_chunks(data: bytes, overlap_bytes: int = 0) -> Iterator[memoryview]:
    """`data` in pieces, none of it copied; each but the last goes on for `overlap_bytes` into the next."""
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES + overlap_bytes]
