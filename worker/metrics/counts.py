"""What a worker counts: how invocations ended and how long each stage took, and what went wrong between it and Redis.

Knows: names and labels of the worker's metrics, how many a function may have. Does not know: who asks, how it is written.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Protocol

from sandlot.jobs.stats import FunctionStats, write_stats
from sandlot.metrics import OTHER, Family, Histogram, PerFunction, Sample, counter, gauge, histogram, single
from sandlot.models import Outcome, OutcomeKind, Timings

_OK: Final = OutcomeKind.OK
VERSIONS_LIMIT: Final = 8
"""Of a function that have labels of their own: the highest numbers. What lower ones had counted moves to `other`."""


class PoolFacts(Protocol):
    """What a scrape asks of the pool."""

    @property
    def busy(self) -> int: ...
    @property
    def idle(self) -> int: ...
    @property
    def evictions(self) -> dict[str, int]: ...


class FunctionCounts:
    """Of one function, over all of its versions but for the ends."""

    __slots__ = ("boot", "cold_starts", "ends", "import_", "ok", "queued", "run", "total")

    def __init__(self) -> None:
        self.ok: dict[int, int] = {}
        """By version, of those that have labels of their own: the usual end has the shortest way (an enum's hash is Python, 0.2 µs)."""
        self.ends: dict[tuple[str, OutcomeKind], int] = {}
        """All others."""
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
            self._count_end(version, outcome.kind)
        self.queued.observe(timings.queued / 1000)
        self.run.observe(timings.run / 1000)
        self.total.observe(timings.total / 1000)
        if outcome.cold:
            self.cold_starts += 1
            self.boot.observe(timings.boot / 1000)
            self.import_.observe(timings.import_ / 1000)

    def _count_end(self, version: int, kind: OutcomeKind) -> None:
        if version not in self.ok:
            self._admit(version)
        if kind is _OK and version in self.ok:
            self.ok[version] += 1
        else:
            self._add(str(version) if version in self.ok else OTHER, kind, 1)

    def _admit(self, version: int) -> None:
        if len(self.ok) < VERSIONS_LIMIT:
            self.ok[version] = 0
        elif version > (lowest := min(self.ok)):
            self.ok[version] = 0
            self._add(OTHER, _OK, self.ok.pop(lowest))
            for number, kind in [key for key in self.ends if key[0] == str(lowest)]:
                self._add(OTHER, kind, self.ends.pop((number, kind)))

    def _add(self, version: str, kind: OutcomeKind, count: int) -> None:
        self.ends[version, kind] = self.ends.get((version, kind), 0) + count

    def samples(self, function: str) -> list[Sample]:
        """The ends, by version and outcome."""
        ok = [Sample((function, str(version), _OK.value), count) for version, count in self.ok.items()]
        others = [Sample((function, version, kind.value), count) for (version, kind), count in self.ends.items()]
        return ok + others

    def stats(self) -> FunctionStats:
        ok = sum(self.ok.values()) + self.ends.get((OTHER, _OK), 0)
        return FunctionStats(ok, sum(self.total.buckets) - ok, self.total.buckets)


class WorkerCounts:
    """One per worker; the engine tells it what happens, and a scrape asks it."""

    def __init__(self, functions_limit: int) -> None:
        self._functions = PerFunction(FunctionCounts, functions_limit)
        self.ends = 0
        self.leases_lost = 0
        self.stale_ends = 0
        self.queued_again = 0
        self.retried = 0
        self.given_up = 0
        self.given_back = 0
        self.callback_tries: Counter[str] = Counter()
        """By what came of them: `delivered`, `again`, `failed`."""

    def ended(self, function: str, version: int, outcome: Outcome, timings: Timings) -> None:
        """An outcome was recorded. Called once per invocation: 2 µs at most."""
        self.ends += 1
        self._functions.of(function).count(version, outcome, timings)

    def stats(self) -> bytes:
        """By function, for whoever has no Prometheus: see `FunctionStats`."""
        return write_stats({name: counts.stats() for name, counts in self._functions})

    def families(self, pool: PoolFacts, slots: int, round_trips: Histogram) -> list[Family]:
        return [*self._of_functions(), *self._of_pool(pool, slots), *self._of_queue(round_trips)]

    def _of_functions(self) -> list[Family]:
        functions = list(self._functions)
        ends = [sample for function, counts in functions for sample in counts.samples(function)]
        stages = [
            histogram(f"sandlot_{stage}_seconds", text, ("function",), [
                getattr(counts, slot).sample(function) for function, counts in functions
            ])
            for stage, slot, text in _STAGES
        ]  # fmt: skip
        cold = [Sample((function,), counts.cold_starts) for function, counts in functions]
        return [
            counter("sandlot_invocations", "Recorded ends of invocations.", ("function", "version", "outcome"), ends),
            counter("sandlot_cold_starts", "Invocations that had to wait for a sandbox.", ("function",), cold),
            *stages,
        ]

    def _of_pool(self, pool: PoolFacts, slots: int) -> list[Family]:
        evictions = [Sample((reason,), count) for reason, count in pool.evictions.items()]
        return [
            gauge("sandlot_slots", "Invocations that this worker runs at once.", (), single(slots)),
            gauge("sandlot_busy_slots", "Invocations that run now.", (), single(pool.busy)),
            gauge("sandlot_warm_sandboxes", "Idle sandboxes that hold a version.", (), single(pool.idle)),
            counter("sandlot_evictions", "Warm sandboxes ended before their time, by reason.", ("reason",), evictions),
        ]

    def _of_queue(self, round_trips: Histogram) -> list[Family]:
        callbacks = [Sample((outcome,), count) for outcome, count in self.callback_tries.items()]
        return [
            counter("sandlot_leases_lost", "Attempts whose right ran out while they ran here.", (), single(self.leases_lost)),
            counter("sandlot_stale_settles", "Outcomes that came after the right to them had gone.", (), single(self.stale_ends)),
            counter("sandlot_requeues", "Jobs of silent workers that this worker queued again.", (), single(self.queued_again)),
            counter("sandlot_retries", "Runs on this worker that failed and whose jobs run again.", (), single(self.retried)),
            counter("sandlot_jobs_given_up", "Jobs that this worker ended as worker_lost after their last attempt.", (), single(self.given_up)),
            counter("sandlot_jobs_given_back", "Claimed jobs that this worker released unfinished.", (), single(self.given_back)),
            counter("sandlot_callback_tries", "Tries to tell a URL of a job's end, by what came of them.", ("outcome",), callbacks),
            histogram("sandlot_redis_round_trip_seconds", "From a call to Redis to its answer.", (), [round_trips.sample()]),
        ]  # fmt: skip


_STAGES: Final = (
    ("queue_wait", "queued", "From the submit to the claim."),
    ("boot", "boot", "Giving a version a sandbox; of cold starts only."),
    ("import", "import_", "Importing the function; of cold starts only."),
    ("run", "run", "The handler's own time."),
    ("invocation", "total", "From the submit to the outcome."),
)
