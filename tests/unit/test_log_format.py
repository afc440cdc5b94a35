"""A record becomes one line: JSON for machines, pretty for people, of the level that was asked for."""

from __future__ import annotations

import json
import logging
import os
import pty
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Literal

import pytest

from sandlot.log_format import JsonLines, PrettyLines, configure_logging

FORGED = "/fn/x\n10:20:31 info    listening\x1b[2J"


@pytest.fixture(autouse=True)
def other_tests_handlers() -> Iterator[None]:
    """Put back, with the levels."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn")
    handlers, levels = root.handlers[:], (root.level, uvicorn.level)
    root.handlers.clear()  # `force` closes those that it finds
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    uvicorn.setLevel(levels[1])


def said(log_format: Literal["auto", "json", "pretty"], level: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a debug and an info record come to."""
    stream = StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(log_format, level)
    logger = logging.getLogger("sandlot.test")
    logger.debug("looked", extra={"job_id": "j1"})
    logger.info("job ended", extra={"job_id": "j1", "run_ms": 1.5})
    return stream.getvalue().splitlines()


def test_json_is_one_object_a_line_with_the_event_and_its_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = said("json", "info", monkeypatch)
    told = json.loads(line)
    assert list(told) == ["time", "level", "logger", "event", "job_id", "run_ms"]
    assert (told["level"], told["event"], told["job_id"], told["run_ms"]) == ("info", "job ended", "j1", 1.5)


def test_auto_is_json_in_a_pipe_and_pretty_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said("auto", "info", monkeypatch)[0].startswith("{")
    above, child = pty.openpty()
    with open(child, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        configure_logging("auto", "info")
        assert isinstance(logging.getLogger().handlers[0].formatter, PrettyLines)
    os.close(above)


@pytest.mark.parametrize(("level", "events"), [("debug", 2), ("info", 1), ("warning", 0)])
def test_levels_are_by_setting(level: str, events: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(said("json", level, monkeypatch)) == events


@pytest.mark.parametrize("formatter", [JsonLines(), PrettyLines()])
def test_foreign_text_stays_within_its_log_line(formatter: logging.Formatter) -> None:
    record = logging.makeLogRecord({"msg": "request", "levelname": "INFO", "name": "sandlot.access", "path": FORGED})
    line = formatter.format(record)
    assert line.isprintable()
    assert "request" in line
    assert "listening" in line


@pytest.mark.parametrize("formatter", [JsonLines(), PrettyLines()])
def test_a_traceback_is_kept(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.makeLogRecord({"msg": "a bug", "exc_info": sys.exc_info()})
    assert "ValueError: no" in formatter.format(record)
