"""When a cron expression is due, over changes of the clock too."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandlot.functions.schedule import Schedule


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def _ticks(schedule: Schedule, after: str, count: int) -> list[str]:
    ticks, at_ms = [], _ms(after)
    for _ in range(count):
        at_ms = schedule.next_tick_ms(at_ms)
        ticks.append(datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%m-%dT%H:%M:%S"))
    return ticks


@pytest.mark.parametrize(
    ("cron", "after", "ticks"),
    [
        # Skipped hour, 29 March 2026, 02:00 to 03:00 in Berlin: due when the clock changes, at 01:00 UTC.
        ("30 2 * * *", "2026-03-28T12:00", ["03-29T01:00:00", "03-30T00:30:00"]),
        ("*/30 * * * *", "2026-03-29T00:10", ["03-29T00:30:00", "03-29T01:00:00", "03-29T01:30:00"]),
        # Doubled hour, 25 October 2026, 02:00 to 03:00 twice: a fixed time once, a repeating one in both.
        ("30 2 * * *", "2026-10-24T12:00", ["10-25T00:30:00", "10-26T01:30:00"]),
        ("*/30 * * * *", "2026-10-24T23:40", ["10-25T00:00:00", "10-25T00:30:00", "10-25T01:00:00", "10-25T01:30:00"]),
    ],
)
def test_a_change_of_the_clock_loses_and_doubles_nothing(cron: str, after: str, ticks: list[str]) -> None:
    assert _ticks(Schedule(cron, "Europe/Berlin"), after, len(ticks)) == ticks


def test_six_fields_name_seconds() -> None:
    assert _ticks(Schedule("*/20 * * * * *"), "2026-01-01T00:00:01", 3) == [
        "01-01T00:00:20", "01-01T00:00:40", "01-01T00:01:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "cron", ["", "x", "61 * * * *", "* * *", "*/0 * * * *", "0 0 30 2 *", "@daily", "\u0661 * * * *"]
)
def test_an_invalid_cron_expression_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="is not a cron expression"):
        Schedule(cron)


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "a\0b"])
def test_an_invalid_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone"):
        Schedule("* * * * *", zone)


@settings(max_examples=15)
@given(st.integers(0, 4_000_000_000_000), st.sampled_from(["*/5 * * * *", "30 2 * * *", "*/7 * * * * *"]))
def test_the_last_tick_is_the_one_before_the_next(now_ms: int, cron: str) -> None:
    schedule = Schedule(cron, "Europe/Berlin")
    last_ms, next_ms = schedule.last_tick_ms(now_ms), schedule.next_tick_ms(now_ms)
    assert last_ms <= now_ms < next_ms
    assert schedule.next_tick_ms(last_ms) == next_ms
