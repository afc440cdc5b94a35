"""Counters of a worker: outcomes and stage durations of invocations, and lost or repeated jobs.

This module defines the names, labels and cardinality limits of the worker's metrics.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Protocol

from sandlot.jobs.stats import FunctionStats, write_stats
from sandlot.metrics import OTHER, Family, Histogram, PerFunction, Sample, counter, gauge, histogram, single
from sandlot.models import Outcome, OutcomeKind, Timings

_OK: Final = OutcomeKind.OK
VERSIONS_LIMIT: Final = 8
"""Versions per function with labels of their own: those with the highest numbers.

The counts of lower versions are added to `other`.
"""


class PoolFacts(Protocol):
    """The figures that a scrape reads from the pool."""

    @property
    def busy(self) -> int: ...
    @property
    def idle(self) -> int: ...
    @property
    def evictions(self) -> dict[str, int]: ...


class FunctionCounts:
    """The counters of one function; only outcomes are counted per version."""

    __slots__ = ("boot", "cold_starts", "import_", "ok", "outcomes", "queued", "run", "total")

    def __init__(self) -> None:
        self.ok: dict[int, int] = {}
        """Successes of each version that has labels of its own.

        Successes are counted apart from other outcomes to keep the usual case fast: the hash of an
        enum is computed in Python and costs 0.2 µs.
        """
        self.outcomes: dict[tuple[str, OutcomeKind], int] = {}
        """All other outcomes, by version label and kind."""
        self.cold_starts = 0
        self.queued = Histogram()
        self.boot = Histogram()
        self.import_ = Histogram()
        self.run = Histogram()
        self.total = Histogram()

    def count(self, version: int, outcome: Outcome, timings: Timings) -> None:
        if outcome.kind is _OK and version in self.ok:
            self.ok[version] += 1
        else:
            self._count_outcome(version, outcome.kind)
        self.queued.observe(timings.queued / 1000)
        self.run.observe(timings.run / 1000)
        self.total.observe(timings.total / 1000)
        if outcome.cold:
            self.cold_starts += 1
            self.boot.observe(timings.boot / 1000)
            self.import_.observe(timings.import_ / 1000)

    def _count_outcome(self, version: int, kind: OutcomeKind) -> None:
        if version not in self.ok:
            self._give_labels(version)
        if kind is _OK and version in self.ok:
            self.ok[version] += 1
        else:
            self._add(str(version) if version in self.ok else OTHER, kind, 1)

    def _give_labels(self, version: int) -> None:
        """Give a version labels of its own; at the limit, the lowest version loses them."""
        if len(self.ok) < VERSIONS_LIMIT:
            self.ok[version] = 0
        elif version > (lowest := min(self.ok)):
            self.ok[version] = 0
            self._add(OTHER, _OK, self.ok.pop(lowest))
            for number, kind in [key for key in self.outcomes if key[0] == str(lowest)]:
                self._add(OTHER, kind, self.outcomes.pop((number, kind)))

    def _add(self, version: str, kind: OutcomeKind, count: int) -> None:
        self.outcomes[version, kind] = self.outcomes.get((version, kind), 0) + count

    def samples(self, function: str) -> list[Sample]:
        """Return the outcomes, labelled with function, version and kind."""
        ok = [Sample((function, str(version), _OK.value), count) for version, count in self.ok.items()]
        others = [Sample((function, version, kind.value), count) for (version, kind), count in self.outcomes.items()]
        return ok + others

    def stats(self) -> FunctionStats:
        ok = sum(self.ok.values()) + self.outcomes.get((OTHER, _OK), 0)
        return FunctionStats(ok, sum(self.total.buckets) - ok, self.total.buckets)


class WorkerCounts:
    """The counters of one worker: the engine and the callback sender add to them."""

    def __init__(self, functions_limit: int) -> None:
        self._functions = PerFunction(FunctionCounts, functions_limit)
        self.outcomes = 0
        self.leases_lost = 0
        self.stale_outcomes = 0
        self.requeued = 0
        self.retried = 0
        self.given_up = 0
        self.given_back = 0
        self.callback_tries: Counter[str] = Counter()
        """By the result of a try: `delivered`, `again`, `failed`."""

    def count_outcome(self, function: str, version: int, outcome: Outcome, timings: Timings) -> None:
        """Count a recorded outcome. Called once per invocation: 2 µs at most."""
        self.outcomes += 1
        self._functions.of(function).count(version, outcome, timings)

    def stats(self) -> bytes:
        """Return the statistics per function, which go to Redis: see `FunctionStats`."""
        return write_stats({name: counts.stats() for name, counts in self._functions})

    def families(self, pool: PoolFacts, slots: int, round_trips: Histogram) -> list[Family]:
        return [*self._of_functions(), *self._of_pool(pool, slots), *self._of_queue(round_trips)]

    def _of_functions(self) -> list[Family]:
        functions = list(self._functions)
        outcomes = [sample for function, counts in functions for sample in counts.samples(function)]
        stages = [
            histogram(f"sandlot_{stage}_seconds", text, ("function",), [
                getattr(counts, slot).sample(function) for function, counts in functions
            ])
            for stage, slot, text in _STAGES
        ]  # fmt: skip
        cold = [Sample((function,), counts.cold_starts) for function, counts in functions]
        return [
            counter(
                "sandlot_invocations", "Recorded outcomes of invocations.", ("function", "version", "outcome"), outcomes
            ),
            counter("sandlot_cold_starts", "Invocations that had to wait for a sandbox.", ("function",), cold),
            *stages,
        ]

    def _of_pool(self, pool: PoolFacts, slots: int) -> list[Family]:
        evictions = [Sample((reason,), count) for reason, count in pool.evictions.items()]
        return [
            gauge("sandlot_slots", "Invocations that this worker runs at once.", (), single(slots)),
            gauge("sandlot_busy_slots", "Invocations running now.", (), single(pool.busy)),
            gauge("sandlot_warm_sandboxes", "Idle sandboxes that hold a version.", (), single(pool.idle)),
            counter("sandlot_evictions", "Warm sandboxes evicted, by reason.", ("reason",), evictions),
        ]

    def _of_queue(self, round_trips: Histogram) -> list[Family]:
        callbacks = [Sample((outcome,), count) for outcome, count in self.callback_tries.items()]
        return [
            counter("sandlot_leases_lost", "Attempts whose lease expired while they ran here.", (), single(self.leases_lost)),
            counter("sandlot_stale_settles", "Outcomes refused because the lease had expired.", (), single(self.stale_outcomes)),
            counter("sandlot_requeues", "Jobs of silent workers that this worker queued again.", (), single(self.requeued)),
            counter("sandlot_retries", "Failed runs on this worker whose jobs run again.", (), single(self.retried)),
            counter("sandlot_jobs_given_up", "Jobs that this worker ended as worker_lost after their last attempt.", (), single(self.given_up)),
            counter("sandlot_jobs_given_back", "Claimed jobs that this worker released unfinished.", (), single(self.given_back)),
            counter("sandlot_callback_tries", "Tries to deliver a callback, by result.", ("outcome",), callbacks),
            histogram("sandlot_redis_round_trip_seconds", "From a call to Redis to its reply.", (), [round_trips.sample()]),
        ]  # fmt: skip


_STAGES: Final = (
    ("queue_wait", "queued", "From the submit to the claim."),
    ("boot", "boot", "Preparing a sandbox for a version; cold starts only."),
    ("import", "import_", "Importing the function; cold starts only."),
    ("run", "run", "The handler's own time."),
    ("invocation", "total", "From the submit to the outcome."),
)
