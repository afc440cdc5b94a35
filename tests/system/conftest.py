"""The whole platform as an operator starts it.

Tests that only call it share one; tests that break it start as many as they need.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.up_process import Up, clean_environment, copy_examples
from tests.waiting import HANG_S


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One platform with the examples deployed, shared by the tests that only call it."""
    folder = tmp_path_factory.mktemp("platform")
    copy_examples(folder)
    up = Up(folder)
    try:
        yield up.ready()
    finally:
        up.stop()


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Start platforms of one's own; whatever is still running at the end is stopped."""
    started: list[Up] = []

    def start(*options: str, env: dict[str, str] | None = None, folder: Path = tmp_path) -> Up:
        started.append(Up(folder, *options, env=env))
        return started[-1]

    yield start
    for up in started:
        up.kill()


@pytest.fixture(scope="session")
def sandlot(platform: Up) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line, run in the platform's folder."""

    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sandlot", *words],
            cwd=platform.folder,
            env=clean_environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )

    return run
