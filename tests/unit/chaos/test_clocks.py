"""Whose clock decides: Redis's own, in every script. A machine whose clock is wrong by ten minutes changes nothing.

`make faults` runs API and workers with such clocks; here the source is read: no wall clock of another machine reaches a script.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted((ROOT / "sandlot" / "redis" / "scripts").rglob("*.lua"))
SENDERS = sorted(
    [
        *(ROOT / "sandlot" / "jobs").glob("*.py"),
        *(ROOT / "sandlot" / "redis").glob("*.py"),
        *(ROOT / "worker" / "engine").glob("*.py"),
        ROOT / "api" / "invocations.py",
    ]
)
NAMES_ONLY = {"ids.py": ["time.time_ns"]}
"""An id begins with its maker's time, which orders lists of jobs for people and decides nothing."""
WALL_CLOCKS = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime"}


@pytest.mark.parametrize("path", SENDERS, ids=lambda path: path.name)
def test_modules_that_send_scripts_never_read_a_wall_clock(path: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    read = [
        ast.unparse(call)
        for call in calls
        if isinstance(call, ast.Attribute)
        and call.attr in WALL_CLOCKS
        and ast.unparse(call.value) in ("time", "datetime", "datetime.datetime", "date", "datetime.date")
    ]
    assert read == NAMES_ONLY.get(path.name, [])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_takes_the_time_as_an_argument(path: Path) -> None:
    """Every name of a moment is made from `clock` (Redis's TIME) or read from Redis, never from ARGV."""
    moments = re.findall(r"^\s*local\s+\w*(?:now|clock)\w*\s*=.*$", path.read_text(), re.MULTILINE)
    assert [line for line in moments if "ARGV" in line] == []


def test_the_one_clock_is_redis() -> None:
    text = (ROOT / "sandlot" / "redis" / "scripts" / "jobs" / "prelude.lua").read_text()
    assert "local clock = redis.call('TIME')" in text
    assert "os.time" not in "".join(script.read_text() for script in SCRIPTS)
