"""Write families in the text that Prometheus reads (its exposition format 0.0.4).

Knows: prometheus_client's writer, that one scrape may speak of several processes. Does not know: who asks, what is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from sandlot.metrics.meters import BOUNDS_S, Family, Sample

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
PROCESS: Final = "process"
"""The label that tells the processes of one server apart. Added up, their counters would fall when one of them is replaced, which Prometheus
takes for a counter that began anew."""
_LE: Final = (*(str(bound) for bound in BOUNDS_S), "+Inf")


def write(families: Sequence[Family]) -> bytes:
    """One process's families."""
    return write_processes([("", families)])


def write_processes(processes: Iterable[tuple[str, Sequence[Family]]]) -> bytes:
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
