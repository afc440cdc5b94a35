"""What is counted is what Prometheus reads, and no name that anybody may make up becomes a label without end."""

from __future__ import annotations

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.parser import text_string_to_metric_families

from sandlot.metrics import (
    BOUNDS_S,
    CONTENT_TYPE,
    Family,
    Histogram,
    PerFunction,
    Sample,
    counter,
    gauge,
    histogram,
    is_metrics_token,
    render,
    render_processes,
)
from sandlot.models import Outcome, OutcomeKind, Timings
from sandlot.settings import is_loopback
from worker.metrics.counts import VERSIONS_LIMIT, WorkerCounts


def read(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels, as prometheus_client's own parser sees it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_an_observation_falls_into_the_first_bucket_that_reaches_it() -> None:
    seconds = Histogram()
    for value in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, BOUNDS_S[-1], BOUNDS_S[-1] + 1):
        seconds.observe(value)
    found = read(render([histogram("x_seconds", "X.", ("function",), [seconds.sample("f")])]))
    buckets = {dict(labels)["le"]: value for (name, labels), value in found.items() if name == "x_seconds_bucket"}
    assert (buckets["0.0005"], buckets["0.001"], buckets["60.0"], buckets["+Inf"]) == (2, 3, 4, 5)
    assert found["x_seconds_count", (("function", "f"),)] == 5
    assert found["x_seconds_sum", (("function", "f"),)] == seconds.sum_s


def test_a_sample_does_not_change_after_it_was_taken() -> None:
    seconds = Histogram()
    sample = seconds.sample()
    seconds.observe(1)
    assert sum(sample.buckets) == 0


def test_the_content_type_is_the_one_of_prometheus_clients_writer() -> None:
    assert CONTENT_TYPE == CONTENT_TYPE_PLAIN_0_0_4


def test_counters_gauges_and_odd_labels_are_read_back() -> None:
    families = [
        counter("calls", "Calls.", ("function",), [Sample(('a"b\\c\nd',), 3)]),
        gauge("depth", "Depth.", (), [Sample((), 1.5)]),
    ]
    assert read(render(families)) == {("calls_total", (("function", 'a"b\\c\nd'),)): 3, ("depth", ()): 1.5}


def test_several_processes_have_labels_and_share_one_heading() -> None:
    def one(value: float) -> list[Family]:
        return [counter("calls", "Calls.", ("function",), [Sample(("f",), value)])]

    text = render_processes([("0", one(1)), ("1", one(2))])
    assert text.count(b"# TYPE calls_total counter") == 1
    assert read(text) == {
        ("calls_total", (("function", "f"), ("process", "0"))): 1,
        ("calls_total", (("function", "f"), ("process", "1"))): 2,
    }


def test_functions_beyond_the_limit_are_counted_together() -> None:
    histograms = PerFunction(Histogram, 2)
    for name in ("a", "b", "c", "d", "a"):
        histograms.of(name).observe(1)
    assert {name: sum(each.buckets) for name, each in histograms} == {"a": 2, "b": 1, "other": 2}


class Pool:
    busy, idle = 3, 2

    def __init__(self) -> None:
        self.evictions = {"memory": 1}


def test_a_worker_counts_ends_by_version_and_keeps_the_newest_versions_apart() -> None:
    counts = WorkerCounts(10)
    newest = VERSIONS_LIMIT + 2
    for version in [*range(1, newest + 1), 1]:
        counts.count_outcome("f", version, Outcome(kind=OutcomeKind.OK), Timings(run=2.0))
    counts.count_outcome("f", newest, Outcome(kind=OutcomeKind.TIMEOUT, cold=True), Timings(boot=4.0))
    found = read(render(counts.families(Pool(), 8, Histogram())))
    ends = {
        (dict(labels)["version"], dict(labels)["outcome"]): value
        for (name, labels), value in found.items()
        if name == "sandlot_invocations_total"
    }
    assert ends["other", "ok"] == 3, "versions 1 and 2, and 1 again"
    assert ends[str(newest), "ok"] == ends[str(newest), "timeout"] == 1
    assert len({version for version, _ in ends}) == VERSIONS_LIMIT + 1
    assert found["sandlot_run_seconds_count", (("function", "f"),)] == newest + 2
    assert found["sandlot_boot_seconds_count", (("function", "f"),)] == 1
    assert found["sandlot_cold_starts_total", (("function", "f"),)] == 1
    assert (found["sandlot_slots", ()], found["sandlot_busy_slots", ()], found["sandlot_warm_sandboxes", ()]) == (
        8,
        3,
        2,
    )
    assert found["sandlot_evictions_total", (("reason", "memory"),)] == 1


def test_only_the_token_reads_metrics_and_no_token_reads_nothing() -> None:
    assert is_metrics_token("Bearer secret", "secret")
    assert is_metrics_token("bearer  secret ", "secret")
    assert not any(
        is_metrics_token(given, "secret") for given in ("", "secret", "Basic secret", "Bearer", "Bearer secreT")
    )
    assert not is_metrics_token("Bearer ", "")
    assert not is_metrics_token("Bearer sécret", "secret")


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "sandlot.example", "")))
