"""The API's metrics: request counters of this process and its siblings, and the queue's gauges."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from api.invocations import Invocations
from sandlot.errors import QueueUnavailable
from sandlot.jobs import Queue
from sandlot.jobs.stats import QueueLoad, QueueLoads
from sandlot.metrics import (
    OTHER,
    Family,
    Histogram,
    PerFunction,
    Sample,
    counter,
    gauge,
    histogram,
    render_processes,
    single,
)

FUNCTION: Final = "sandlot.function"
"""
Key in the ASGI scope: the function that this request calls, set once the caller is authorized. A
name that any caller could invent must not become a label.
"""
_log = logging.getLogger("sandlot.api")
_SIBLING_DEADLINE_S: Final = 2.0
"""
For a sibling to send its metrics. A hanging process must not delay the scrape beyond Prometheus's
own timeout (10 s).
"""
_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Of one sibling's metrics."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(list[Family])


class FunctionTraffic:
    """The replies of one function by status, and their durations."""

    __slots__ = ("codes", "seconds")

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.seconds = Histogram()


class RequestMetrics:
    """Counts the requests of this process."""

    def __init__(self, functions_limit: int) -> None:
        self._functions_limit = functions_limit
        self._replies: dict[tuple[str, str, int], int] = {}
        self._functions = PerFunction(FunctionTraffic, functions_limit)

    def count_reply(self, route: str, method: str, status: int, function: str | None, took_s: float) -> None:
        """Count a reply that was sent. Called once per request; takes 1 µs at most."""
        key = (route, method, status)
        self._replies[key] = self._replies.get(key, 0) + 1
        if function is not None:
            traffic = self._functions.of(function)
            traffic.codes[status] = traffic.codes.get(status, 0) + 1
            traffic.seconds.observe(took_s)

    def process_families(self, waiting: int, round_trips: Histogram) -> list[Family]:
        """Return the metrics of this process alone."""
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
            histogram("gateway_functions_seconds", "From the arrival of a call to its reply.", ("function_name",), seconds),
            gauge("sandlot_waiting_callers", "Callers that are waiting for the end of a job.", (), single(waiting)),
            histogram("sandlot_redis_round_trip_seconds", "From a request to Redis to its reply.", (), [round_trips.sample()]),
        ]  # fmt: skip

    def queue_families(self, load: QueueLoads | None) -> list[Family]:
        """Return the metrics of the whole installation; `load` is None if Redis did not answer."""
        up = gauge("sandlot_redis_up", "Whether Redis answers.", (), single(load is not None))
        if load is None:
            return [up]
        return [
            up,
            gauge("sandlot_jobs_queued", "Jobs waiting to be claimed.", (), single(load.queued)),
            gauge("sandlot_jobs_running", "Jobs that a worker has claimed.", (), single(load.running)),
            gauge("sandlot_jobs_scheduled", "Jobs that will be queued later.", (), single(load.scheduled)),
            counter("sandlot_jobs_ended", "Jobs that have ended, since Redis was empty.", (), single(load.ended)),
            *self._function_families(load.queues),
            *_placement_families(load),
        ]

    def _function_families(self, queues: Sequence[QueueLoad]) -> list[Family]:
        """Return gauges by function; the longest queues have labels, the rest share one."""
        depths: dict[str, int] = {}
        running: dict[str, int] = {}
        waits_s: dict[str, float] = {}
        for rank, queue in enumerate(sorted(queues, key=lambda queue: -queue.queued)):
            name = queue.function if rank < self._functions_limit else OTHER
            depths[name] = depths.get(name, 0) + queue.queued
            running[name] = running.get(name, 0) + queue.running
            waits_s[name] = max(waits_s.get(name, 0.0), queue.oldest_wait_s)
        return [
            gauge("sandlot_queue_depth", "Jobs of a function that are waiting.", ("function",), _samples(depths)),
            gauge("sandlot_queue_running", "Jobs of a function that are claimed.", ("function",), _samples(running)),
            gauge("sandlot_queue_oldest_seconds", "How long the first job of a queue has waited.", ("function",), _samples(waits_s)),
        ]  # fmt: skip


def _placement_families(load: QueueLoads) -> list[Family]:
    """Return gauges by placement (`python`, `node`, `python,gpu`), for an autoscaler."""
    queued = dict.fromkeys(load.placements, 0)
    waits_s = dict.fromkeys(load.placements, 0.0)
    for queue in load.queues:
        queued[queue.placement] = queued.get(queue.placement, 0) + queue.queued
        waits_s[queue.placement] = max(waits_s.get(queue.placement, 0.0), queue.oldest_wait_s)
    serving = {name: [worker for worker in load.workers if name in worker.placements] for name in load.placements}
    by = ("placement",)
    return [
        gauge("sandlot_placement_queued", "Jobs waiting for workers of a placement.", by, _samples(queued)),
        gauge("sandlot_placement_oldest_seconds", "How long the first of these jobs has waited.", by, _samples(waits_s)),
        gauge("sandlot_placement_workers", "Live workers that serve a placement.", by, _samples({n: len(w) for n, w in serving.items()})),
        gauge("sandlot_placement_slots", "Slots of these workers. A worker counts in each of its placements.", by, _samples({n: sum(w.slots for w in ws) for n, ws in serving.items()})),
        gauge("sandlot_placement_busy_slots", "Busy slots of these workers.", by, _samples({n: sum(w.busy for w in ws) for n, ws in serving.items()})),
    ]  # fmt: skip


def _samples(values: dict[str, int] | dict[str, float]) -> list[Sample]:
    return [Sample((name,), value) for name, value in values.items()]


class SiblingMetrics:
    """The metrics of the API processes that share a port.

    Each process listens on a Unix socket in a common folder and sends its metrics to a sibling that
    connects.
    """

    def __init__(self, folder: Path | None, number: str, families: Callable[[], list[Family]]) -> None:
        """
        Args:
            folder: holds the sockets; None if this process has no siblings.
            number: names this process and, later, its replacement.
            families: returns the metrics of this process.
        """
        self._folder = folder
        self._number = number
        self._families = families

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve the siblings until the end of the block."""
        if self._folder is None:
            yield
            return
        path = self._folder / self._number
        path.unlink(missing_ok=True)  # left by the process that this one replaces
        async with await asyncio.start_unix_server(self._send, path):
            inode = path.stat().st_ino
            yield
        # By now this may be the socket of the process that replaces this one.
        if path.exists() and path.stat().st_ino == inode:
            path.unlink()

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_encode(self._families()))
        with contextlib.suppress(ConnectionError):  # the sibling has disconnected, and counts this process as silent
            await writer.drain()
        writer.close()

    async def families(self) -> dict[str, list[Family]]:
        """Return the metrics of every process that answers, by its number.

        The number is empty if there is only this process.
        """
        if self._folder is None:
            return {"": self._families()}
        others = sorted(path for path in self._folder.iterdir() if path.name != self._number)
        replies = await asyncio.gather(*(_fetch(path) for path in others))
        found = {path.name: reply for path, reply in zip(others, replies, strict=True) if reply is not None}
        return dict(sorted((found | {self._number: self._families()}).items()))


async def _fetch(path: Path) -> list[Family] | None:
    try:
        async with asyncio.timeout(_SIBLING_DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=_LIMIT_BYTES)
            with contextlib.closing(writer):
                return _decoder.decode(await reader.read())
    except (OSError, TimeoutError, msgspec.DecodeError) as error:
        # The process has just died, or hangs. The scrape goes on without it and says how many
        # processes it covers.
        _log.warning("sibling left out of metrics", extra={"number": path.name, "error": str(error) or "no answer"})
        return None


class Metrics:
    """All metrics that a scrape of this process returns."""

    def __init__(self, queue: Queue, invocations: Invocations, requests: RequestMetrics) -> None:
        self._queue = queue
        self._invocations = invocations
        self._requests = requests
        self.siblings = SiblingMetrics(None, "", self.own_families)
        """Replaced at the start of a process that has siblings."""

    def own_families(self) -> list[Family]:
        """Return the metrics of this process alone."""
        return self._requests.process_families(self._invocations.waiting, self._queue.round_trips)

    async def text(self) -> bytes:
        """Return the metrics of all processes and of their queue, in Prometheus's text format."""
        processes = await self.siblings.families()
        try:
            load = await self._queue.load()
        except QueueUnavailable:
            load = None
        shared = self._requests.queue_families(load)
        count = gauge("sandlot_api_processes", "API processes that this scrape covers.", (), single(len(processes)))
        return await asyncio.to_thread(render_processes, [("", [count, *shared]), *processes.items()])
