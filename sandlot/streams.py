"""Server-sent events, as a reader gets them (the WHATWG's HTML standard, section 9.2).

Knows: lines and fields. Does not know: HTTP, what the events mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """`place`: the last id seen, to be sent as Last-Event-ID."""

    name: str
    data: str
    place: str


def read_events(lines: Iterable[str]) -> Iterator[StreamEvent]:
    """The events of a stream's lines; one that the stream broke off is none."""
    name, place = "", ""
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield StreamEvent(name, "\n".join(data), place)
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            place = value
