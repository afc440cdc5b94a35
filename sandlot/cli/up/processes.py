"""Child processes that do not outlive their parent: start them, read their logs, stop them."""

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
    """A child process that should keep running has ended."""

    code = "child_ended"


@dataclass(frozen=True, slots=True)
class Program:
    """How to start a child process, each time it is started.

    `name` is for people. `log` is the file that takes its output; None: it writes to our output.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None
    on_log_line: Callable[[str, Mapping[str, Any]], None] | None = None
    """Called with the name and each JSON line of the child's output.
    Without it, the child writes to its log file directly."""
    parent_death_signal: signal.Signals = signal.SIGKILL
    """The signal that the kernel sends to the child if we die without stopping it."""


@dataclass(slots=True)
class ChildProcess:
    """A child process that was started."""

    program: Program
    process: asyncio.subprocess.Process
    ended: asyncio.Task[int] = field(repr=False)
    """Ends with the exit status, when the process has ended and its output has been read."""

    def check(self) -> None:
        """Raise ChildEnded, with the last line it wrote, if the process has ended."""
        if not self.ended.done():
            return
        raise ChildEnded(f"{self.program.name} {_describe_exit(self.ended.result())}: {_last_line(self.program.log)}")


async def start(program: Program) -> ChildProcess:
    """Start a child process in a session of its own.

    Ctrl+C at the terminal therefore signals only this process, which stops its children in order.

    Raises:
        ChildEnded: the program cannot be started.
    """
    is_piped = program.on_log_line is not None and program.log is not None
    with contextlib.ExitStack() as files:
        log = files.enter_context(program.log.open("ab")) if program.log else None
        output = asyncio.subprocess.PIPE if is_piped else log
        try:
            process = await asyncio.create_subprocess_exec(
                *program.command,
                env=program.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT if output else None,
                start_new_session=True,
                preexec_fn=parent_death_hook(os.getpid(), program.parent_death_signal),
            )
        except OSError as error:
            raise ChildEnded(f"{program.name} cannot be started ({program.command[0]}): {error.strerror}") from error
    if process.stdout is not None and program.log is not None and program.on_log_line is not None:
        end = _copy_log(process, process.stdout, program.log, functools.partial(program.on_log_line, program.name))
    else:
        end = process.wait()
    return ChildProcess(program, process, asyncio.create_task(end, name=f"end of {program.name}"))


async def stop(children: Sequence[ChildProcess], grace_s: float, stop_now: asyncio.Event) -> None:
    """Send SIGTERM to all children; kill the rest after `grace_s` or when `stop_now` is set."""
    for child in children:
        _send_signal(child, signal.SIGTERM)
    running = [child.ended for child in children if not child.ended.done()]
    if running:
        all_ended = asyncio.create_task(_wait_for_all(running))
        hurried = asyncio.create_task(_wait_until_set(stop_now))
        await asyncio.wait([all_ended, hurried], timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        all_ended.cancel()
        hurried.cancel()
    for child in children:
        _send_signal(child, signal.SIGKILL)
    await asyncio.gather(*(child.ended for child in children))


def parent_death_hook(parent: int, number: signal.Signals) -> Callable[[], None]:
    """Return a `preexec_fn` that asks the kernel for a signal when the child's parent ends.

    Precisely: the signal comes when the thread that started the child ends.

    The hook makes two system calls between fork and exec and takes no lock. See
    PR_SET_PDEATHSIG in prctl(2).
    """

    def request_signal() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request was in force
            os._exit(1)

    return request_signal


async def _copy_log(
    process: asyncio.subprocess.Process,
    stream: asyncio.StreamReader,
    log_path: Path,
    on_log_line: Callable[[Mapping[str, Any]], None],
) -> int:
    """Copy a child's output to its log, pass on its JSON lines, and return its exit status."""
    rest = b""
    with log_path.open("ab", buffering=0) as log:
        while chunk := await stream.read(_READ_BYTES):
            log.write(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-_READ_BYTES:]  # bounds memory; a line of ours is never that long
            for line in lines:
                # Other lines, such as a traceback or a library's output, are in the log file only.
                with contextlib.suppress(msgspec.MsgspecError):
                    on_log_line(msgspec.json.decode(line, type=dict[str, Any]))
    return await process.wait()


async def _wait_for_all(tasks: Sequence[asyncio.Task[int]]) -> bool:
    """Wait for all tasks; cancelling this does not cancel them."""
    await asyncio.wait(tasks)
    return True


async def _wait_until_set(event: asyncio.Event) -> bool:
    return await event.wait()


def _send_signal(child: ChildProcess, number: signal.Signals) -> None:
    if not child.ended.done():
        with contextlib.suppress(ProcessLookupError):  # it ended between the check and the signal
            child.process.send_signal(number)


def _describe_exit(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _last_line(log: Path | None) -> str:
    """Return the last line of a log, preferably one that is not JSON, such as an error message."""
    if log is None:
        return "see above"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith("{")]
    return (plain or lines or [f"it wrote nothing to {log}"])[-1]
