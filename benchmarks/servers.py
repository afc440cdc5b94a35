"""The server processes of one contender: start them, and end every process that descends from them.

At most one contender runs at a time, so all descendants of this process belong to it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from benchmarks import process_tree
from benchmarks.process_tree import Memory

POLITE_S: Final = 6.0
"""Time for a server to end by itself: Sandlot and Celery finish their running jobs."""
FORCED_S: Final = 10.0


class ServerFailed(Exception):
    """A contender did not start, stopped by itself, or could not be ended.

    The message ends with its log.
    """


@dataclass(frozen=True, slots=True)
class Program:
    """One process to start; `environment` adds to the few variables of `clean_environment`.

    `forwards_signals` is false for a parent that waits for its children without ending them:
    signals then go to its whole process group.
    """

    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    directory: Path = Path()
    forwards_signals: bool = True


def clean_environment() -> dict[str, str]:
    """Return the variables for every contender; settings of this shell must not change a figure."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}


class Servers:
    """The programs started so far, as a context manager.

    Leaving it ends all of them and all their descendants, even after an exception.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._started: list[tuple[Program, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self, program: Program) -> None:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                program.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment() | program.environment,
                cwd=program.directory,
                start_new_session=True,  # Ctrl+C reaches this process alone; it ends the others in order
            )
        self._started.append((program, process))

    def check_alive(self) -> None:
        """Check that every program still runs.

        Raises:
            ServerFailed: a program has ended by itself.
        """
        for program, process in self._started:
            if process.poll() is not None:
                raise ServerFailed(f"{Path(program.argv[0]).name} ended with {process.returncode}: {self.log_tail()}")

    def log_tail(self, size_bytes: int = 1500) -> str:
        """Return the end of the programs' output."""
        return self._log.read_bytes()[-size_bytes:].decode(errors="replace").strip() if self._log.exists() else ""

    def cpu_s(self) -> float:
        """Return the CPU seconds of the whole tree so far, for differences of two calls."""
        processes = process_tree.snapshot()
        return process_tree.cpu_s(processes, process_tree.descendants(processes, os.getpid()))

    def memory(self) -> Memory:
        return process_tree.memory(process_tree.descendants(process_tree.snapshot(), os.getpid()))

    def end(self) -> None:
        """End the programs, last started first, then everything left of the tree.

        Raises:
            ServerFailed: a process survived SIGKILL for FORCED_S.
        """
        while self._started:
            program, process = self._started.pop()
            if process.poll() is None:
                if program.forwards_signals:
                    process.terminate()
                else:
                    os.killpg(process.pid, signal.SIGTERM)
                _wait(process)
        _kill_descendants()


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(POLITE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(FORCED_S)


def _kill_descendants() -> None:
    deadline_s = time.monotonic() + FORCED_S
    while pids := process_tree.descendants(process_tree.snapshot(), os.getpid()):
        if time.monotonic() > deadline_s:
            raise ServerFailed(f"still alive after SIGKILL: pids {pids}")
        for pid in pids:
            _kill_and_reap(pid)
        time.sleep(0.02)


def _kill_and_reap(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, os.WNOHANG)
    except (ProcessLookupError, ChildProcessError):
        pass  # it has ended, or is a grandchild that is reparented to this process once its parent is dead
