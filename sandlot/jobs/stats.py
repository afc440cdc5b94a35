"""Which workers beat: for health checks, which run beside a worker and ask about that one.

Knows: where beats are kept and how old one may be. Does not know: what a worker does, how a health check is asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import msgspec
import redis

from sandlot.redis import keys
from sandlot.redis.pipeline import Reply

SILENT_MS: Final = 10_000
"""A worker beats every second; ten missed beats are no hiccup."""


def beating(client: redis.Redis, host: str) -> list[str]:
    """Names of the workers on that host that have beaten within the last ten seconds.

    Raises:
        redis.RedisError: Redis cannot be asked.
    """
    seconds, microseconds = client.time()
    since_ms = seconds * 1000 + microseconds // 1000 - SILENT_MS
    found: set[bytes] = set()
    for placement in cast("set[bytes]", client.smembers(keys.PLACEMENTS)):
        beats = client.zrangebyscore(keys.BEATS + placement.decode(), since_ms, "+inf")
        found.update(cast("list[bytes]", beats))
    return sorted(name.decode() for name in found if name.startswith(f"{host}.".encode()))


log = logging.getLogger(__name__)

LIVE_MS: Final = 3000
"""A worker that has missed three beats is not counted as live."""
QUEUES_LIMIT: Final = 1000
"""That are looked at: first those with work that nobody has claimed yet."""

_FIELDS: Final = ("placements", "slots", "busy", keys.STATS)

Call = Callable[..., Awaitable[Reply]]


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand. `workers`: live workers by placement."""

    reachable: bool
    workers: dict[str, int] = {}
    queued: int = 0
    running: int = 0


class QueueLoad(msgspec.Struct, frozen=True):
    """One function's queue on one placement. `oldest_wait_s`: since the first in the queue was queued."""

    function: str
    placement: str
    queued: int
    running: int
    oldest_wait_s: float


class FunctionStats(msgspec.Struct, frozen=True, array_like=True):
    """What a worker has counted of one function since it started: ends by kind, and how long they took from submit to outcome
    (`sandlot.metrics.BOUNDS_S`)."""

    ok: int
    failed: int
    buckets: list[int]


class WorkerLoad(msgspec.Struct, frozen=True):
    """One live worker, as of its last beat."""

    name: str
    placements: list[str]
    slots: int
    busy: int
    functions: dict[str, FunctionStats] = {}


class QueueLoads(msgspec.Struct, frozen=True):
    """How things stand. `queues`: those with work or with a running job; a worker stands once in `workers`, whatever it serves."""

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


async def read_queue_loads(call: Call) -> QueueLoads:
    """
    Raises:
        QueueUnavailable
    """
    clock, depth, running, scheduled, ended, names, known, capped, letters, broken = await asyncio.gather(
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
    waiting = {*_texts(capped), *(queue for ring in rings for queue in _texts(ring))}
    idle = sorted({queue.removeprefix(keys.QUEUE) for queue in _texts(known)} - waiting)
    looked_at = [*sorted(waiting), *idle][:QUEUES_LIMIT]
    queues = await asyncio.gather(*(_queue(call, name, now_ms) for name in looked_at))
    workers = await _workers(call, placements, now_ms)
    return QueueLoads(
        queued=_number(depth),
        running=cast(int, running),
        scheduled=cast(int, scheduled),
        ended=_number(ended),
        placements=placements,
        queues=[queue for queue in queues if queue.queued or queue.running],
        workers=workers,
        dead_letters=cast(int, letters),
        breakers=sorted({name.partition("@")[0] for name in _texts(broken)}),
    )


async def _queue(call: Call, name: str, now_ms: int) -> QueueLoad:
    depth, started, head = await asyncio.gather(
        call("LLEN", keys.QUEUE + name), call("ZCARD", keys.STARTED + name), call("LINDEX", keys.QUEUE + name, 0)
    )
    # One of those in front of it may have been given back, but then it was queued earlier still.
    queued_ms = _number(await call("HGET", keys.JOB + cast(bytes, head).decode(), keys.QUEUED_MS)) if head else 0
    function, _, placement = name.partition("@")
    wait_s = max(0, now_ms - queued_ms) / 1000 if queued_ms else 0.0
    return QueueLoad(function, placement, cast(int, depth), cast(int, started), wait_s)


async def _workers(call: Call, placements: Sequence[str], now_ms: int) -> list[WorkerLoad]:
    since = now_ms - LIVE_MS
    live = await asyncio.gather(*(call("ZRANGEBYSCORE", keys.BEATS + name, since, "+inf") for name in placements))
    names = sorted({worker for workers in live for worker in _texts(workers)})
    fields = await asyncio.gather(*(call("HMGET", keys.WORKER + name, *_FIELDS) for name in names))
    return [
        WorkerLoad(name, (serves or b"").decode().split(), _number(slots), _number(busy), _read_stats(name, stats))
        for name, (serves, slots, busy, stats) in zip(names, cast("list[list[bytes | None]]", fields), strict=True)
    ]


def write_stats(functions: dict[str, FunctionStats]) -> bytes:
    return msgspec.json.encode(functions)


def _read_stats(worker: str, text: bytes | None) -> dict[str, FunctionStats]:
    """Nothing for what cannot be read: it is shown to people and decides nothing."""
    try:
        return _decoder.decode(text or b"{}")
    except msgspec.DecodeError as error:
        log.warning("unreadable stats", extra={"worker": worker, "error": str(error)})
        return {}


def _texts(reply: object) -> list[str]:
    return [text.decode() for text in cast("list[bytes]", reply)]


def _number(text: object) -> int:
    return int(cast("bytes | None", text) or 0)


async def read_status(call: Call) -> QueueStatus:
    """The short form of it, for a health check.

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
