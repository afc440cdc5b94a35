"""`sandlot up` as a child process of a test, in a new folder and on a free port."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from tests.waiting import HANG_S, until

REPOSITORY = Path(__file__).resolve().parents[2]
START_DEADLINE_S = HANG_S


class Command:
    """One `sandlot` command that runs until it is stopped; `output` is its output so far."""

    def __init__(self, folder: Path, *words: str, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.output = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sandlot", *words],
            cwd=folder,
            env=clean_environment() | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.output += line

    def says(self, text: str, deadline_s: float = HANG_S) -> None:
        """Wait until this has been printed."""
        until(lambda: text in self.output, reason=lambda: f"never said {text!r}; it said:\n{self.output}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to stop, as Ctrl+C does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout=HANG_S)
        self._reader.join(timeout=HANG_S)
        return status

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=HANG_S)
        self._reader.join(timeout=HANG_S)


class Up(Command):
    """One `sandlot up`."""

    def __init__(self, folder: Path, *options: str, env: dict[str, str] | None = None) -> None:
        super().__init__(folder, "up", "--port", "0", *options, env=env)

    def ready(self) -> Up:
        """Wait until it says that it runs."""
        until(lambda: "Ctrl+C stops everything" in self.output or self.process.poll() is not None)
        assert self.process.poll() is None, self.output
        return self

    @property
    def url(self) -> str:
        found = re.search(r"API\s+(http://\S+)", self.output)
        assert found, self.output
        return found[1]

    @property
    def key(self) -> str:
        return (self.folder / ".sandlot" / "key").read_text().strip()

    def client(self, *, key: bool = True) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=HANG_S, trust_env=False)

    def processes(self) -> list[int]:
        """Return every other process of this platform.

        Their environment or command line names its data folder.
        """
        return [
            pid
            for pid in _pids()
            if pid != self.process.pid and _mentions(pid, str(self.folder.resolve() / ".sandlot"))
        ]


def clean_environment() -> dict[str, str]:
    """Ours without what would change the platform under test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SANDLOT_")}
    return kept | {"PYTHONUNBUFFERED": "1", "COLUMNS": "120"}


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _mentions(pid: int, text: str) -> bool:
    try:
        seen = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it ended, or belongs to another user
        return False
    return text.encode() in seen


def copy_examples(folder: Path) -> Path:
    target = folder / "functions"
    shutil.copytree(REPOSITORY / "functions", target, ignore=shutil.ignore_patterns("__pycache__"))
    return target
