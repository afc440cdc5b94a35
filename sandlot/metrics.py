"""Count on the hot path, for next to nothing.

Knows: histograms, families, how many functions get a label of their own. Does not know: what is counted, how it is written or sent.
Measured: 0.2 µs for an observation, where prometheus_client's own takes 1.9. Everything happens on one event loop, so nothing is locked.
"""

from __future__ import annotations

import hmac
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Generic, Literal, TypeVar

import msgspec
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""From a warm call to the longest that people wait for. Fourteen, since each is a line per function and histogram in every scrape."""
OTHER: Final = "other"
"""The label of what has none of its own; no function's name that is counted on its own is replaced by it."""

MetricT = TypeVar("MetricT")


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


class PerFunction(Generic[MetricT]):
    """A meter for each of the first `limit` functions, and one that all others share."""

    def __init__(self, make: Callable[[], MetricT], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._metrics: dict[str, MetricT] = {}

    def of(self, function: str) -> MetricT:
        found = self._metrics.get(function)
        return self._enter(function) if found is None else found

    def _enter(self, function: str) -> MetricT:
        if len(self._metrics) >= self._limit:
            function = OTHER
        return self._metrics.setdefault(function, self._make())

    def __iter__(self) -> Iterator[tuple[str, MetricT]]:
        return iter(self._metrics.items())


def counter(name: str, help_text: str, labels: Sequence[str], samples: list[Sample]) -> Family:
    return Family(name, "counter", help_text, tuple(labels), samples)


def gauge(name: str, help_text: str, labels: Sequence[str], samples: list[Sample]) -> Family:
    return Family(name, "gauge", help_text, tuple(labels), samples)


def histogram(name: str, help_text: str, labels: Sequence[str], samples: list[Sample]) -> Family:
    return Family(name, "histogram", help_text, tuple(labels), samples)


def single(value: float) -> list[Sample]:
    """The one sample of a family without labels."""
    return [Sample((), value)]


CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
PROCESS: Final = "process"
"""The label that tells the processes of one server apart. Added up, their counters would fall when one of them is replaced, which Prometheus
takes for a counter that began anew."""
_LE: Final = (*(str(bound) for bound in BOUNDS_S), "+Inf")


def render(families: Sequence[Family]) -> bytes:
    """One process's families."""
    return render_processes([("", families)])


def render_processes(processes: Iterable[tuple[str, Sequence[Family]]]) -> bytes:
    """The families of several processes, each with the label that it gets; an empty one is none."""
    metrics: dict[str, Metric] = {}
    for process, families in processes:
        for family in families:
            metric = metrics.setdefault(family.name, Metric(family.name, family.help, family.kind))
            _add(metric, family, {PROCESS: process} if process else {})
    return generate_latest(_Collected(metrics))


class _Collected:
    """What prometheus_client calls a registry, of which it only asks this."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics.values())


def _add(metric: Metric, family: Family, common: Mapping[str, str]) -> None:
    for sample in family.samples:
        labels = {**dict(zip(family.labels, sample.labels, strict=True)), **common}
        if family.kind == "histogram":
            _add_histogram(metric, sample, labels)
        else:
            suffix = "_total" if family.kind == "counter" else ""
            metric.add_sample(family.name + suffix, labels, sample.value)


def _add_histogram(metric: Metric, sample: Sample, labels: Mapping[str, str]) -> None:
    counts = list(accumulate(sample.buckets))
    for bound, count in zip(_LE, counts, strict=True):
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, count)
    metric.add_sample(f"{metric.name}_count", dict(labels), counts[-1])
    metric.add_sample(f"{metric.name}_sum", dict(labels), sample.value)


def is_metrics_token(authorization: str, token: str) -> bool:
    """Whether this `Authorization` carries the token; never, if there is none."""
    scheme, _, given = authorization.partition(" ")
    return bool(token) and scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())
