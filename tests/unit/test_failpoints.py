"""How SANDLOT_FAILPOINTS is written, when a fault strikes, and that nothing is in the way when it is not set."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sandlot.errors import InvalidSettings
from sandlot.failpoints import POINTS, Failpoints


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the process would have sent to itself."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    return sent


def parsed(text: str) -> Failpoints:
    points = Failpoints.parse(text)
    assert points is not None
    return points


def test_without_the_setting_there_are_no_points() -> None:
    assert Failpoints.parse("") is None


def test_a_fault_strikes_once_at_its_turn(signals: list[int]) -> None:
    points = parsed("claimed:kill@3")
    for _ in range(5):
        points.reach("claimed")
        points.reach("ran")
        if len(signals) == 1:
            break
    assert signals == [signal.SIGKILL]
    points.reach("claimed")
    assert len(signals) == 1


def test_stop_freezes(signals: list[int]) -> None:
    parsed("settling:stop").reach("settling")
    assert signals == [signal.SIGSTOP]


def test_a_note_is_made_every_time(signals: list[int], caplog: pytest.LogCaptureFixture) -> None:
    points = parsed("claimed:note, settling:kill")
    with caplog.at_level(logging.INFO, "sandlot.failpoints"):
        points.reach("claimed", "a", 1)
        points.reach("claimed", "a", 2)
    seen: list[Any] = caplog.records
    assert [(line.point, line.job_id, line.attempt) for line in seen] == [("claimed", "a", 1), ("claimed", "a", 2)]
    assert not signals


@pytest.mark.parametrize(
    "text", ["claimed", "claimed:explode", "nowhere:kill", "claimed:kill@0", "claimed:kill,", "a:b:c"]
)
def test_unreadable_failpoints_are_refused_with_the_syntax(text: str) -> None:
    with pytest.raises(InvalidSettings, match=r"SANDLOT_FAILPOINTS=.*point:action.*claimed.*kill"):
        Failpoints.parse(text)


def test_every_named_point_is_reached_somewhere() -> None:
    """A point that no code reaches would let a test pass without its fault."""
    source = (Path(__file__).parents[2] / "worker" / "middleware" / "failpoints.py").read_text()
    assert [point for point in POINTS if f'"{point}"' not in source] == []


def test_engine_and_pool_do_not_know_of_faults() -> None:
    """Unset, a failpoint costs nothing because nothing is there: only the composition root and the wrappers name it."""
    root = Path(__file__).parents[2] / "worker"
    naming = [str(path.relative_to(root)) for path in root.rglob("*.py") if "sandlot.failpoints" in path.read_text()]
    assert sorted(naming) == ["__main__.py", "middleware/failpoints.py"]
