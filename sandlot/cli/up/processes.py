"""Processes that live no longer than we do.

Knows: starting, watching and ending child processes, and their log files. Does not know: which programs they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from sandlot.errors import OperatorError

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LOG_TAIL_BYTES: Final = 4096
_READ_BYTES: Final = 64 * 1024


class ChildEnded(OperatorError):
    """A process that should go on running has ended."""

    code = "child_ended"


@dataclass(frozen=True, slots=True)
class Program:
    """How a child is started, and started again: its name for people, and where its output goes (`None`: to ours)."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None
    heard: Callable[[str, Mapping[str, Any]], None] | None = None
    """Told of every line of JSON it writes, with its name; a child without it writes to its log itself."""
    orphan_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends it when we die without stopping it."""


@dataclass(slots=True)
class Child:
    program: Program
    process: asyncio.subprocess.Process
    ended: asyncio.Task[int] = field(repr=False)
    """Done when it has ended and everything it wrote has been read."""

    def check(self) -> None:
        """Raises ChildEnded, with the last thing it wrote, if it has ended."""
        if not self.ended.done():
            return
        raise ChildEnded(f"{self.program.name} {_how(self.ended.result())}: {_last_line(self.program.log)}")


async def start(program: Program) -> Child:
    """Start it, in a session of its own so that a Ctrl+C at the terminal reaches us alone, who stop things in their order.

    Raises:
        ChildEnded: it cannot even be started.
    """
    listened = program.heard is not None and program.log is not None
    with contextlib.ExitStack() as files:
        log = files.enter_context(program.log.open("ab")) if program.log else None
        output = asyncio.subprocess.PIPE if listened else log
        try:
            process = await asyncio.create_subprocess_exec(
                *program.command,
                env=program.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT if output else None,
                start_new_session=True,
                preexec_fn=dies_with(os.getpid(), program.orphan_signal),
            )
        except OSError as error:
            raise ChildEnded(f"{program.name} cannot be started ({program.command[0]}): {error.strerror}") from error
    if process.stdout is not None and program.log is not None and program.heard is not None:
        end = _listen(process, process.stdout, program.log, functools.partial(program.heard, program.name))
    else:
        end = process.wait()
    return Child(program, process, asyncio.create_task(end, name=f"end of {program.name}"))


async def stop(children: Sequence[Child], grace_s: float, hurry: asyncio.Event) -> None:
    """Ask them all to end; kill what has not ended when the grace is over or somebody is in a hurry."""
    for child in children:
        _signal(child, signal.SIGTERM)
    running = [child.ended for child in children if not child.ended.done()]
    if running:
        waiting = asyncio.create_task(_all_of(running))
        hurried = asyncio.create_task(_set(hurry))
        await asyncio.wait([waiting, hurried], timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        hurried.cancel()
    for child in children:
        _signal(child, signal.SIGKILL)
    await asyncio.gather(*(child.ended for child in children))


async def _listen(
    process: asyncio.subprocess.Process,
    stream: asyncio.StreamReader,
    log_path: Path,
    told: Callable[[Mapping[str, Any]], None],
) -> int:
    """Copy what it writes to its log and tell of every line that is a JSON object; its exit status."""
    rest = b""
    with log_path.open("ab", buffering=0) as log:
        while chunk := await stream.read(_READ_BYTES):
            log.write(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-_READ_BYTES:]  # a line without an end is no log line of ours
            for line in lines:
                with contextlib.suppress(
                    msgspec.MsgspecError
                ):  # a traceback, or whatever a library prints: it is in the log
                    told(msgspec.json.decode(line, type=dict[str, Any]))
    return await process.wait()


async def _all_of(tasks: Sequence[asyncio.Task[int]]) -> bool:
    """Wait for all of them; cancelling this leaves the tasks alone."""
    await asyncio.wait(tasks)
    return True


async def _set(event: asyncio.Event) -> bool:
    return await event.wait()


def _signal(child: Child, number: signal.Signals) -> None:
    if not child.ended.done():
        with contextlib.suppress(ProcessLookupError):  # it ended between the check and the signal
            child.process.send_signal(number)


def dies_with(parent: int, number: signal.Signals) -> Callable[[], None]:
    """For `preexec_fn`: the child gets this signal when the thread that started it ends, however that comes about.

    Two system calls between fork and exec, nothing that takes a lock.
    """

    def ask_kernel() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request was in force
            os._exit(1)

    return ask_kernel


def _how(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _last_line(log: Path | None) -> str:
    if log is None:
        return "see above"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith("{")]
    return (plain or lines or [f"it wrote nothing to {log}"])[-1]
