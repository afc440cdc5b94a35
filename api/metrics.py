"""What an API process counts: replies by route and status, and by function.

Knows: names and labels of the API's metrics. Does not know: who asks, how it is written, what a route does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.auth import key_of
from api.invocations import Invocations
from sandlot.errors import Forbidden, QueueUnavailable
from sandlot.jobs import Queue
from sandlot.jobs.stats import QueueLoad, QueueLoads
from sandlot.metrics import (
    CONTENT_TYPE,
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
        self._functions = PerFunction(FunctionTraffic, functions_limit)

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


_log = logging.getLogger("sandlot.api")
_PATIENCE_S: Final = 2.0
"""For a process to say what it has counted; one that is stopped must not hold up the scrape (10 s is Prometheus's own patience)."""
_LIMIT_BYTES: Final = 64 * 1024 * 1024

_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(list[Family])


class SiblingMetrics:
    """`number` tells this process from the others, and stays the same when it is replaced; without a folder there are no others."""

    def __init__(self, folder: Path | None, number: str, families: Callable[[], list[Family]]) -> None:
        self._folder = folder
        self._number = number
        self._families = families

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Answer the others until the end of the block."""
        if self._folder is None:
            yield
            return
        path = self._folder / self._number
        path.unlink(missing_ok=True)  # of the process that this one replaces
        async with await asyncio.start_unix_server(self._tell, path):
            ours = path.stat().st_ino
            yield
        # By now it may be the socket of the process that replaces us.
        if path.exists() and path.stat().st_ino == ours:
            path.unlink()

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_encode(self._families()))
        with contextlib.suppress(ConnectionError):  # whoever asked has gone: he counts us as silent
            await writer.drain()
        writer.close()

    async def families(self) -> dict[str, list[Family]]:
        """Of every process that answers, by its number; by the empty one if there is only this."""
        if self._folder is None:
            return {"": self._families()}
        others = sorted(path for path in self._folder.iterdir() if path.name != self._number)
        answers = await asyncio.gather(*(_ask(path) for path in others))
        found = {path.name: answer for path, answer in zip(others, answers, strict=True) if answer is not None}
        return dict(sorted((found | {self._number: self._families()}).items()))


async def _ask(path: Path) -> list[Family] | None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=_LIMIT_BYTES)
            with contextlib.closing(writer):
                return _decoder.decode(await reader.read())
    except (OSError, TimeoutError, msgspec.DecodeError) as error:
        # It has just died, or hangs; the scrape is for the others as well, and says how many answered.
        _log.warning("process not in metrics", extra={"number": path.name, "error": str(error) or "no answer"})
        return None


class Metrics:
    """One per process; `peers` is put in its place when there are several."""

    def __init__(self, queue: Queue, calls: Invocations, counts: ApiCounts) -> None:
        self._queue = queue
        self._calls = calls
        self._counts = counts
        self.peers = SiblingMetrics(None, "", self.own)

    def own(self) -> list[Family]:
        """What this process has counted."""
        return self._counts.families(self._calls.waiting, self._queue.round_trips)

    async def text(self) -> bytes:
        """Of all processes, and of the queue they share."""
        processes = await self.peers.families()
        try:
            load = await self._queue.load()
        except QueueUnavailable:
            load = None
        shared = self._counts.families_of(load)
        count = gauge(
            "sandlot_api_processes", "Processes of this API that are in this text.", (), single(len(processes))
        )
        return await asyncio.to_thread(render_processes, [("", [count, *shared]), *processes.items()])


def add_routes(routes: APIRouter, metrics: Metrics) -> None:
    @routes.get("/metrics")
    async def scrape(request: Request) -> Response:
        """For the scope `read`, or the token made for this."""
        key = key_of(request.scope)
        if key is not None and key.prefix:
            raise Forbidden(f"metrics speak of every function, and key {key.id} is for those named {key.prefix}… alone")
        text = await metrics.text()
        return Response(text, media_type=CONTENT_TYPE)
