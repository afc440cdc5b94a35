"""Server-sent events are read as a browser reads them."""

from __future__ import annotations

import pytest

from api.routes.events import StreamPosition, read_position
from sandlot.client.transport import StreamEvent, read_events
from sandlot.errors import CallerError


def test_empty_lines_separate_events_and_comments_are_ignored() -> None:
    lines = [
        "retry: 1000",
        "",
        ": ping",
        "",
        "event: log",
        "id: running.1.2",
        'data: {"a":',
        "data: 1}",
        "",
        "data:x",
        "",
    ]
    assert list(read_events(lines)) == [
        StreamEvent("log", '{"a":\n1}', "running.1.2"),
        StreamEvent("", "x", "running.1.2"),
    ]


def test_a_truncated_event_is_ignored() -> None:
    assert list(read_events(["event: log", "data: 1"])) == []


@pytest.mark.parametrize(
    "place",
    [
        StreamPosition(),
        StreamPosition("queued", 0, 0),
        StreamPosition("running", 3, 12345),
        StreamPosition("succeeded", 1, 7),
    ],
)
def test_an_event_id_carries_the_readers_position(place: StreamPosition) -> None:
    assert read_position(str(place)) == place


def test_behind_the_last_event_there_is_nothing() -> None:
    assert read_position("over.1.7") is None
    assert read_position("") == StreamPosition()


@pytest.mark.parametrize(
    "made_up",
    [
        "x",
        "running",
        "running.1",
        "running.x.1",
        "done.1.1",
        "running.1.-1",
        "running.1." + "9" * 80,
        "running.1.9999999999",
        "running.1.٣",
    ],
)
def test_an_invalid_last_event_id_is_refused(made_up: str) -> None:
    with pytest.raises(CallerError, match="not an id of this stream"):
        read_position(made_up)
