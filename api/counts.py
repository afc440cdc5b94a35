"""What an API process counts: replies by route and status, and by function.

Knows: names and labels of the API's metrics. Does not know: who asks, how it is written, what a route does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sandlot.jobs.stats import QueueLoad, QueueLoads
from sandlot.metrics import OTHER, ByFunction, Family, Histogram, Sample, counter, gauge, histogram, single

FUNCTION: Final = "sandlot.function"
"""In the scope: the function that this request calls, once its caller was let in. A name that anybody may make up is no label."""


class FunctionTraffic:
    """Of one function: replies by status, and how long they took."""

    __slots__ = ("codes", "seconds")

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.seconds = Histogram()


class ApiCounts:
    """One per process."""

    def __init__(self, functions_limit: int) -> None:
        self._functions_limit = functions_limit
        self._replies: dict[tuple[str, str, int], int] = {}
        self._functions = ByFunction(FunctionTraffic, functions_limit)

    def answered(self, route: str, method: str, status: int, function: str | None, took_s: float) -> None:
        """A reply was sent. Called once per request: 1 µs at most."""
        key = (route, method, status)
        self._replies[key] = self._replies.get(key, 0) + 1
        if function is not None:
            traffic = self._functions.of(function)
            traffic.codes[status] = traffic.codes.get(status, 0) + 1
            traffic.seconds.observe(took_s)

    def families(self, waiting: int, round_trips: Histogram) -> list[Family]:
        """Of this process alone."""
        replies = [
            Sample((route, method, str(status)), count) for (route, method, status), count in self._replies.items()
        ]
        functions = list(self._functions)
        codes = [
            Sample((function, str(status)), count)
            for function, traffic in functions
            for status, count in traffic.codes.items()
        ]
        seconds = [traffic.seconds.sample(function) for function, traffic in functions]
        return [
            counter("sandlot_http_requests", "Requests answered.", ("route", "method", "code"), replies),
            counter("gateway_function_invocation", "Calls of functions over HTTP, as OpenFaaS counts them.", ("function_name", "code"), codes),
            histogram("gateway_functions_seconds", "From a call's arrival to its reply.", ("function_name",), seconds),
            gauge("sandlot_waiting_callers", "Callers that wait for the end of a job.", (), single(waiting)),
            histogram("sandlot_redis_round_trip_seconds", "From a call to Redis to its answer.", (), [round_trips.sample()]),
        ]  # fmt: skip

    def families_of(self, load: QueueLoads | None) -> list[Family]:
        """Of the whole installation; without a load, Redis did not answer."""
        up = gauge("sandlot_redis_up", "Whether Redis answers.", (), single(load is not None))
        if load is None:
            return [up]
        return [
            up,
            gauge("sandlot_jobs_queued", "Jobs that wait to be claimed.", (), single(load.queued)),
            gauge("sandlot_jobs_running", "Jobs that a worker has claimed.", (), single(load.running)),
            gauge("sandlot_jobs_scheduled", "Jobs that are to be queued later.", (), single(load.scheduled)),
            counter("sandlot_jobs_ended", "Jobs that have ended, since Redis was empty.", (), single(load.ended)),
            *self._of_queues(load.queues),
            *_of_placements(load),
        ]

    def _of_queues(self, queues: Sequence[QueueLoad]) -> list[Family]:
        """The longest have labels of their own."""
        depths: dict[str, int] = {}
        running: dict[str, int] = {}
        waits_s: dict[str, float] = {}
        for rank, queue in enumerate(sorted(queues, key=lambda queue: -queue.queued)):
            name = queue.function if rank < self._functions_limit else OTHER
            depths[name] = depths.get(name, 0) + queue.queued
            running[name] = running.get(name, 0) + queue.running
            waits_s[name] = max(waits_s.get(name, 0.0), queue.oldest_wait_s)
        return [
            gauge("sandlot_queue_depth", "Jobs of a function that wait.", ("function",), _samples(depths)),
            gauge("sandlot_queue_running", "Jobs of a function that are claimed.", ("function",), _samples(running)),
            gauge("sandlot_queue_oldest_seconds", "How long the first in a queue has waited.", ("function",), _samples(waits_s)),
        ]  # fmt: skip


def _of_placements(load: QueueLoads) -> list[Family]:
    """The signal for whatever adds machines: per placement (`python`, `node`, `python,gpu`)."""
    queued = dict.fromkeys(load.placements, 0)
    waits_s = dict.fromkeys(load.placements, 0.0)
    for queue in load.queues:
        queued[queue.placement] = queued.get(queue.placement, 0) + queue.queued
        waits_s[queue.placement] = max(waits_s.get(queue.placement, 0.0), queue.oldest_wait_s)
    serving = {name: [worker for worker in load.workers if name in worker.placements] for name in load.placements}
    by = ("placement",)
    return [
        gauge("sandlot_placement_queued", "Jobs that wait for workers of a placement.", by, _samples(queued)),
        gauge("sandlot_placement_oldest_seconds", "How long the first of them has waited.", by, _samples(waits_s)),
        gauge("sandlot_placement_workers", "Live workers that serve a placement.", by, _samples({n: len(w) for n, w in serving.items()})),
        gauge("sandlot_placement_slots", "Their slots. A worker counts in each of its placements.", by, _samples({n: sum(w.slots for w in ws) for n, ws in serving.items()})),
        gauge("sandlot_placement_busy_slots", "Those of them that are busy.", by, _samples({n: sum(w.busy for w in ws) for n, ws in serving.items()})),
    ]  # fmt: skip


def _samples(values: dict[str, int] | dict[str, float]) -> list[Sample]:
    return [Sample((name,), value) for name, value in values.items()]
