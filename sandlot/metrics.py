"""Metrics: cheap counters for the hot path, and Prometheus' text format for a scrape.

An observation costs 0.2 µs, where prometheus_client's own histogram takes 1.9 µs (measured).
Everything happens on one event loop, so nothing is locked. prometheus_client only writes the text;
it is imported at the first scrape, since loading it takes about 60 ms.
"""

from __future__ import annotations

import hmac
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar

import msgspec

if TYPE_CHECKING:
    from prometheus_client.core import Metric

BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds of the buckets: from a warm call to the longest wait that people accept.

There are only fourteen, because each is one line per function and histogram in every scrape.
"""
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of what `render` returns (prometheus_client's CONTENT_TYPE_PLAIN_0_0_4)."""
OTHER: Final = "other"
"""Label of the functions beyond the limit; a function of this name shares the series."""
PROCESS: Final = "process"
"""Label that tells the processes of one server apart.

If their counters were added up instead, the sum would fall whenever a process is replaced, and
Prometheus reads a falling counter as a restart from zero.
"""
_LE: Final = (*(str(bound) for bound in BOUNDS_S), "+Inf")

MetricT = TypeVar("MetricT")


class Sample(msgspec.Struct, array_like=True):
    """One series at one moment: a value, or a histogram's bucket counts and sum.

    `buckets` are not cumulative; the last one counts what lies above every bound.
    """

    labels: tuple[str, ...]
    value: float
    buckets: list[int] = []


class Family(msgspec.Struct, array_like=True):
    """All series of one name at one moment.

    The names of counters lack the suffix `_total`, which `render` adds.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    samples: list[Sample]


def counter(name: str, help_text: str, labels: Sequence[str], samples: list[Sample]) -> Family:
    return Family(name, "counter", help_text, tuple(labels), samples)


def gauge(name: str, help_text: str, labels: Sequence[str], samples: list[Sample]) -> Family:
    return Family(name, "gauge", help_text, tuple(labels), samples)


def histogram(name: str, help_text: str, labels: Sequence[str], samples: list[Sample]) -> Family:
    return Family(name, "histogram", help_text, tuple(labels), samples)


def single(value: float) -> list[Sample]:
    """Return the one sample of a family without labels."""
    return [Sample((), value)]


class Histogram:
    """Counts of durations in seconds, in buckets bounded by `BOUNDS_S`."""

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
    """One metric for each of the first `limit` functions, and one that all others share."""

    def __init__(self, make: Callable[[], MetricT], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._metrics: dict[str, MetricT] = {}

    def of(self, function: str) -> MetricT:
        found = self._metrics.get(function)
        return self._add(function) if found is None else found

    def _add(self, function: str) -> MetricT:
        if len(self._metrics) >= self._limit:
            function = OTHER
        return self._metrics.setdefault(function, self._make())

    def __iter__(self) -> Iterator[tuple[str, MetricT]]:
        return iter(self._metrics.items())


def render(families: Sequence[Family]) -> bytes:
    """Return the families of one process as text (exposition format 0.0.4)."""
    return render_processes([("", families)])


def render_processes(processes: Iterable[tuple[str, Sequence[Family]]]) -> bytes:
    """Return the families of several processes as text, each with its `PROCESS` label.

    An empty label is left out.
    """
    from prometheus_client.core import Metric
    from prometheus_client.exposition import generate_latest

    metrics: dict[str, Metric] = {}
    for process, families in processes:
        for family in families:
            metric = metrics.setdefault(family.name, Metric(family.name, family.help, family.kind))
            _add_samples(metric, family, {PROCESS: process} if process else {})
    return generate_latest(_Registry(metrics))


class _Registry:
    """Registry with the one method that prometheus_client's writer calls."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics.values())


def _add_samples(metric: Metric, family: Family, common: Mapping[str, str]) -> None:
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
    """Return whether an `Authorization` header carries the token.

    An empty token matches nothing.
    """
    scheme, _, given = authorization.partition(" ")
    return bool(token) and scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())
