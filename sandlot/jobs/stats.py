"""Live workers, queue depths and loads: for health checks, metrics and autoscaling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import msgspec
import redis

from sandlot.redis import keys
from sandlot.redis.pipeline import Reply

log = logging.getLogger(__name__)

HEALTHY_MS: Final = 10_000
"""Workers send a heartbeat every second. After ten missed ones a health check fails."""
LIVE_MS: Final = 3000
"""A worker that has missed three heartbeats is not counted as live."""
QUEUES_LIMIT: Final = 1000
"""The number of queues examined: those with unclaimed work first."""

_WORKER_FIELDS: Final = ("placements", "slots", "busy", keys.STATS)

Call = Callable[..., Awaitable[Reply]]


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the queue in brief. `workers` counts live workers by placement."""

    reachable: bool
    workers: dict[str, int] = {}
    queued: int = 0
    running: int = 0


class QueueLoad(msgspec.Struct, frozen=True):
    """The queue of one function on one placement. `oldest_wait_s` is the age of its first job."""

    function: str
    placement: str
    queued: int
    running: int
    oldest_wait_s: float


class FunctionStats(msgspec.Struct, frozen=True, array_like=True):
    """A worker's counters for one function since the worker started: outcomes, and a histogram of
    the time from submit to outcome (`sandlot.metrics.BOUNDS_S`)."""

    ok: int
    failed: int
    buckets: list[int]


class WorkerLoad(msgspec.Struct, frozen=True):
    """One live worker as of its last heartbeat."""

    name: str
    placements: list[str]
    slots: int
    busy: int
    functions: dict[str, FunctionStats] = {}


class QueueLoads(msgspec.Struct, frozen=True):
    """The state of all queues and workers. `queues` lists those with queued or running jobs; each
    worker is in `workers` once, whatever it serves."""

    queued: int
    running: int
    scheduled: int
    ended: int
    placements: list[str]
    queues: list[QueueLoad]
    workers: list[WorkerLoad]
    dead_letters: int = 0
    breakers: list[str] = []
    """Functions whose breaker is not closed."""


_decoder: Final = msgspec.json.Decoder(dict[str, FunctionStats])


def live_workers(client: redis.Redis, host: str) -> list[str]:
    """Return the names of the workers on that host with a heartbeat in the last ten seconds.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    seconds, microseconds = client.time()
    since_ms = seconds * 1000 + microseconds // 1000 - HEALTHY_MS
    found: set[bytes] = set()
    for placement in cast("set[bytes]", client.smembers(keys.PLACEMENTS)):
        heartbeats = client.zrangebyscore(keys.BEATS + placement.decode(), since_ms, "+inf")
        found.update(cast("list[bytes]", heartbeats))
    return sorted(name.decode() for name in found if name.startswith(f"{host}.".encode()))


async def read_status(call: Call) -> QueueStatus:
    """Read the state in brief, for a health check.

    Raises:
        QueueUnavailable
    """
    clock, depth, running, placements = await asyncio.gather(
        call("TIME"), call("GET", keys.DEPTH), call("ZCARD", keys.LEASES), call("SMEMBERS", keys.PLACEMENTS)
    )
    seconds, microseconds = cast("list[bytes]", clock)
    since = int(seconds) * 1000 + int(microseconds) // 1000 - LIVE_MS
    names = sorted(name.decode() for name in cast("list[bytes]", placements))
    live = await asyncio.gather(*(call("ZCOUNT", keys.BEATS + name, since, "+inf") for name in names))
    return QueueStatus(
        reachable=True,
        workers=dict(zip(names, cast("list[int]", live), strict=True)),
        queued=int(cast("bytes | None", depth) or 0),
        running=cast(int, running),
    )


async def read_queue_loads(call: Call) -> QueueLoads:
    """Read the state of all queues and workers.

    Raises:
        QueueUnavailable
    """
    clock, depth, running, scheduled, ended, names, known, capped, letters, breakers = await asyncio.gather(
        call("TIME"),
        call("GET", keys.DEPTH),
        call("ZCARD", keys.LEASES),
        call("ZCARD", keys.DUE),
        call("GET", keys.ENDED),
        call("SMEMBERS", keys.PLACEMENTS),
        call("SMEMBERS", keys.QUEUES),
        call("SMEMBERS", keys.CAPPED),
        call("ZCARD", keys.DEAD_LETTERS),
        call("HKEYS", keys.BREAKERS),
    )
    seconds, microseconds = cast("list[bytes]", clock)
    now_ms = int(seconds) * 1000 + int(microseconds) // 1000
    placements = sorted(_texts(names))
    rings = await asyncio.gather(*(call("ZRANGE", keys.RING + name, 0, QUEUES_LIMIT - 1) for name in placements))
    with_work = {*_texts(capped), *(queue for ring in rings for queue in _texts(ring))}
    without_work = sorted({queue.removeprefix(keys.QUEUE) for queue in _texts(known)} - with_work)
    examined = [*sorted(with_work), *without_work][:QUEUES_LIMIT]
    queues = await asyncio.gather(*(_read_queue(call, name, now_ms) for name in examined))
    workers = await _read_workers(call, placements, now_ms)
    return QueueLoads(
        queued=_number(depth),
        running=cast(int, running),
        scheduled=cast(int, scheduled),
        ended=_number(ended),
        placements=placements,
        queues=[queue for queue in queues if queue.queued or queue.running],
        workers=workers,
        dead_letters=cast(int, letters),
        breakers=sorted({name.partition("@")[0] for name in _texts(breakers)}),
    )


async def _read_queue(call: Call, name: str, now_ms: int) -> QueueLoad:
    depth, started, head = await asyncio.gather(
        call("LLEN", keys.QUEUE + name), call("ZCARD", keys.STARTED + name), call("LINDEX", keys.QUEUE + name, 0)
    )
    # The head may be a job that was given back, but that one was queued earlier still.
    queued_ms = _number(await call("HGET", keys.JOB + cast(bytes, head).decode(), keys.QUEUED_MS)) if head else 0
    function, _, placement = name.partition("@")
    wait_s = max(0, now_ms - queued_ms) / 1000 if queued_ms else 0.0
    return QueueLoad(function, placement, cast(int, depth), cast(int, started), wait_s)


async def _read_workers(call: Call, placements: Sequence[str], now_ms: int) -> list[WorkerLoad]:
    since = now_ms - LIVE_MS
    live = await asyncio.gather(*(call("ZRANGEBYSCORE", keys.BEATS + name, since, "+inf") for name in placements))
    names = sorted({worker for workers in live for worker in _texts(workers)})
    fields = await asyncio.gather(*(call("HMGET", keys.WORKER + name, *_WORKER_FIELDS) for name in names))
    return [
        WorkerLoad(name, (serves or b"").decode().split(), _number(slots), _number(busy), _read_stats(name, stats))
        for name, (serves, slots, busy, stats) in zip(names, cast("list[list[bytes | None]]", fields), strict=True)
    ]


def write_stats(functions: dict[str, FunctionStats]) -> bytes:
    """Encode a worker's counters for its hash in Redis."""
    return msgspec.json.encode(functions)


def _read_stats(worker: str, text: bytes | None) -> dict[str, FunctionStats]:
    """Decode a worker's counters; empty if they are unreadable, since they are only displayed."""
    try:
        return _decoder.decode(text or b"{}")
    except msgspec.DecodeError as error:
        log.warning("unreadable stats", extra={"worker": worker, "error": str(error)})
        return {}


def _texts(reply: object) -> list[str]:
    return [text.decode() for text in cast("list[bytes]", reply)]


def _number(text: object) -> int:
    return int(cast("bytes | None", text) or 0)
