"""`sandlot status` and `sandlot top`, for people without a Prometheus."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.system.up_process import Up, clean_environment
from tests.waiting import HANG_S

Sandlot = Callable[..., subprocess.CompletedProcess[str]]
DEADLINE_S = HANG_S


@pytest.fixture
def called(sandlot: Sandlot, platform: Up) -> str:
    assert sandlot("invoke", "hello").returncode == 0
    return "hello"


def test_status_shows_slots_and_queued_jobs_by_placement(sandlot: Sandlot) -> None:
    document = json.loads(sandlot("status", "--json").stdout)
    python = next(placement for placement in document["placements"] if placement["placement"] == "python")
    assert python["workers"] == 1
    assert python["slots"] >= 4
    assert document["workers"][0]["slots"] == python["slots"]
    shown = sandlot("status")
    assert shown.returncode == 0
    assert re.search(r"PLACEMENT +QUEUED +OLDEST +WORKERS +BUSY +SLOTS", shown.stdout)
    assert re.search(rf"^python +- +- +1 +\d+ +{python['slots']}", shown.stdout, re.MULTILINE)


def test_status_without_an_api_says_so_and_exits_with_3(sandlot: Sandlot) -> None:
    shown = sandlot("status", "--url", "http://127.0.0.1:9")
    assert shown.returncode == 3
    assert "http://127.0.0.1:9" in shown.stderr


def test_top_refreshes_until_ctrl_c(platform: Up, called: str) -> None:
    terminal, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sandlot", "top", "--interval", "0.2"],
        cwd=platform.folder,
        env=clean_environment() | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    seen, ends_s = "", time.monotonic() + DEADLINE_S
    try:
        while not re.search(r"CALLS/S[\s\S]*hello[\s\S]*CALLS/S[\s\S]*hello", seen):  # drawn at least twice
            assert time.monotonic() < ends_s, seen
            seen += os.read(terminal, 65536).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the end of a terminal is an error on Linux
            while os.read(terminal, 65536):
                pass
        assert process.wait(DEADLINE_S) == 130
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert "p50" in seen.lower()
    assert "Traceback" not in seen
