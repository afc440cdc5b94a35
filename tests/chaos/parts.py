"""One process of the platform under test: started, watched, signalled, and ended with the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from tests.waiting import eventually

LAUNCH: Final = Path(__file__).with_name("launch.py")


class Process(Protocol):
    """The part of `subprocess.Popen` that is used here."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def send_signal(self, number: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


def launch(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    network: Path | None = None,
    cwd: Path | None = None,
    image: tuple[Path, Path] | None = None,
) -> Process:
    """Started, with its output at the end of `log`; it dies with us.

    Args:
        network: the file of a network namespace to run in.
        image: of a disk, and where it is to be mounted, for it alone.
    """
    launcher = [sys.executable, "-IS", str(LAUNCH), str(os.getpid()), str(network or ""), *map(str, image or ("", ""))]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launcher, *command],
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


class Part:
    """`stop` or `kill` it. Its log is a file, so that what it wrote before a SIGKILL is there."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.expected_to_end = False
        """True once the plan has ended it; a part that ends otherwise has broken a promise."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def broke(self) -> bool:
        """True if the process ended although the plan did not end it."""
        return self.ended and not self.expected_to_end

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Its JSON log lines with one of these events, in order; a torn last line is skipped."""
        marks = [f'"event": "{name}"'.encode() for name in names]
        lines = self.log.read_bytes().splitlines()
        return [json.loads(line) for line in lines if any(mark in line for mark in marks) and line.endswith(b"}")]

    async def said(self, name: str, deadline_s: float = 30.0) -> dict[str, Any]:
        """Wait for its first log line with this event."""
        await eventually(
            lambda: self.events(name) or self.ended,
            reason=lambda: f"{self.name} never logged {name!r}; see {self.tail()}",
        )
        lines = self.events(name)
        assert lines, f"{self.name} ended with {self.process.returncode} before it logged {name!r}: {self.tail()}"
        return lines[0]

    def tail(self) -> str:
        return self.log.read_bytes()[-2000:].decode("utf-8", "replace")

    def signal(self, number: signal.Signals) -> None:
        if not self.ended:
            self.process.send_signal(number)

    async def stands_still(self, deadline_s: float = 10.0) -> None:
        """After SIGSTOP: until none of its threads is on a processor."""
        tasks = Path(f"/proc/{self.pid}/task")

        def stopped() -> bool:
            return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks.iterdir())

        await eventually(stopped, reason=lambda: f"{self.name} does not stand still")

    async def gone(self, deadline_s: float = 30.0) -> int:
        await eventually(
            lambda: self.ended, reason=lambda: f"{self.name} did not end within {deadline_s} s: {self.tail()}"
        )
        status = self.process.returncode
        assert status is not None
        return int(status)

    async def kill(self) -> None:
        """SIGKILL; also ends what is frozen."""
        self.expected_to_end = True
        self.signal(signal.SIGKILL)
        await self.gone()

    async def stop(self, deadline_s: float = 60.0) -> int:
        """SIGTERM; the exit status."""
        self.expected_to_end = True
        self.signal(signal.SIGTERM)
        return await self.gone(deadline_s)

    def destroy(self) -> None:
        """At the end, whatever state it is in."""
        self.expected_to_end = True
        if not self.ended:
            self.process.kill()
        self.process.wait()
