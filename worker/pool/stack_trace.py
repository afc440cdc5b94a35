"""Read the stack that a runtime writes when it is asked, just before it is killed.

Knows: the text of faulthandler and of V8, the trace pipe. Does not know: why it is asked.

All of it was written by a process that is not believed: the text is bounded, and is only ever shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from typing import Any, Final

WAIT_S: Final = 0.02
"""Both runtimes answer within 1 to 3 ms on an idle machine; the kill is due, so not much longer is waited."""

_QUIET_S: Final = 0.003
"""After the first of it, silence this long is the end."""

_READ_BYTES: Final = 64 * 1024
_FRAMES_KEPT: Final = 40
_PYTHON_FRAME: Final = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<name>.*)$')
_NODE_INTERRUPT: Final = "KEYBOARD_INTERRUPT: Script execution was interrupted by `SIGINT`"


async def read_trace(trace_fd: int, ended: asyncio.Future[Any]) -> bytes:
    """What arrives on the trace pipe within `WAIT_S`; less if it stops arriving, or the process ends (as Node does).

    faulthandler writes a few bytes at a time and marks no end.
    """
    loop = asyncio.get_running_loop()
    text = bytearray()
    arrived = asyncio.Event()

    def collect() -> None:
        with contextlib.suppress(BlockingIOError):
            text.extend(os.read(trace_fd, _READ_BYTES - len(text)))
        arrived.set()

    deadline_s = loop.time() + WAIT_S
    loop.add_reader(trace_fd, collect)
    try:
        while len(text) < _READ_BYTES and not ended.done() and (left_s := deadline_s - loop.time()) > 0:
            arrived.clear()
            news = loop.create_task(arrived.wait())
            await asyncio.wait(
                [news, ended], timeout=min(left_s, _QUIET_S) if text else left_s, return_when=asyncio.FIRST_COMPLETED
            )
            if news.cancel():
                break
    finally:
        loop.remove_reader(trace_fd)
    return bytes(text)


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
