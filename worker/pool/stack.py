"""Read the stack that a runtime writes when it is asked, just before it is killed.

Knows: the text of faulthandler and of V8, the trace pipe. Does not know: why it is asked.

All of it was written by a process that is not believed: the text is bounded, and is only ever shown.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any, Final

WAIT_S: Final = 0.02
"""Both runtimes answer within 1 to 3 ms on an idle machine; the kill is due, so not much longer is waited."""

_READ_BYTES: Final = 64 * 1024
_FRAMES_KEPT: Final = 40
_PYTHON_FRAME: Final = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<name>.*)$')
_NODE_INTERRUPT: Final = "KEYBOARD_INTERRUPT: Script execution was interrupted by `SIGINT`"


async def read_trace(trace_fd: int, ended: asyncio.Future[Any]) -> bytes:
    """What arrives on the trace pipe, waiting at most `WAIT_S` for the first of it, or for the process to end (as Node does)."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()
    loop.add_reader(trace_fd, _resolve, arrived)
    try:
        await asyncio.wait([arrived, ended], timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        return os.read(trace_fd, _READ_BYTES)
    except BlockingIOError:
        return b""
    finally:
        loop.remove_reader(trace_fd)
        arrived.cancel()


def _resolve(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


def python_stack(text: bytes, bundle: str) -> list[str]:
    """Where the interrupted thread was, from faulthandler's text: from the first user frame inwards, innermost last."""
    _, _, block = text.decode("utf-8", "replace").partition("Current thread ")
    frames: list[str] = []
    for line in block.splitlines()[1:]:
        found = _PYTHON_FRAME.match(line)
        if found is None:
            break  # The next thread's block, or the end.
        frames.append(f'File "{found["file"]}", line {found["line"]}, in {found["name"]}'[:300])
    return _from_first_user_frame(frames, bundle)


def node_stack(logs: bytes, bundle: str) -> tuple[list[str], bytes]:
    """The same from V8's text in the logs, and the logs without it."""
    before, found, after = logs.decode("utf-8", "replace").rpartition(_NODE_INTERRUPT)
    if not found:
        return [], logs
    lines = [line.strip()[:300] for line in after.splitlines() if line.startswith("    at ")]
    return _from_first_user_frame(lines, bundle), before.encode()


def _from_first_user_frame(innermost_first: list[str], bundle: str) -> list[str]:
    frames = innermost_first[::-1]
    folder = bundle.rstrip("/") + "/"
    first = next((index for index, frame in enumerate(frames) if folder in frame), 0)
    return frames[first:][-_FRAMES_KEPT:]
