"""Stack traces that a runtime writes on request, just before it is killed.

Python's faulthandler writes to the trace pipe, V8 to the logs. The text comes from an untrusted
process: it is bounded, and only ever shown to people.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from typing import Any, Final

WAIT_S: Final = 0.02
"""Both runtimes answer within 1 to 3 ms on an idle machine. The kill is due, so the wait is not
much longer."""

_PAUSE_S: Final = 0.003
"""Once text has arrived, a pause of this length ends the trace: faulthandler marks no end."""

_READ_BYTES: Final = 64 * 1024
_FRAMES_KEPT: Final = 40
_PYTHON_FRAME: Final = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<name>.*)$')
_NODE_INTERRUPT: Final = "KEYBOARD_INTERRUPT: Script execution was interrupted by `SIGINT`"


async def read_trace(trace_fd: int, ended: asyncio.Future[Any]) -> bytes:
    """Return the text that arrives on the trace pipe within `WAIT_S`.

    Returns earlier if no more arrives, or if the process ends (as Node does). faulthandler writes a
    few bytes at a time.
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
            more = loop.create_task(arrived.wait())
            await asyncio.wait(
                [more, ended], timeout=min(left_s, _PAUSE_S) if text else left_s, return_when=asyncio.FIRST_COMPLETED
            )
            if more.cancel():
                break
    finally:
        loop.remove_reader(trace_fd)
    return bytes(text)


def python_stack(text: bytes, bundle: str) -> list[str]:
    """Return the interrupted thread's frames from faulthandler's text.

    They start at the first user frame; the innermost frame is last.
    """
    _, _, block = text.decode("utf-8", "replace").partition("Current thread ")
    frames: list[str] = []
    for line in block.splitlines()[1:]:
        found = _PYTHON_FRAME.match(line)
        if found is None:
            break  # the next thread's block, or the end
        frames.append(f'File "{found["file"]}", line {found["line"]}, in {found["name"]}'[:300])
    return _from_first_user_frame(frames, bundle)


def node_stack(logs: bytes, bundle: str) -> tuple[list[str], bytes]:
    """Return the same frames from V8's text in the logs, and the logs without that text."""
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
