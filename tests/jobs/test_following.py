"""What a job prints is said while it runs, to those who watch, once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from starlette.responses import StreamingResponse

from api import streams
from api.calls import Calls
from sandlot.jobs import DurabilityWatch, JobRecord, Queue, keys
from sandlot.models import JobStatus, Outcome, OutcomeKind
from sandlot.settings import Settings
from tests.jobs.inline_pool import InlinePool


async def running(queue: Queue, pool: InlinePool, make: Any, until: Any) -> Any:
    job = make()
    await queue.submit(job, reply=False)
    await until(lambda: pool.started)
    return job


async def read_until(queue: Queue, job_id: str, text: bytes) -> None:
    """As a watcher does: say that one watches, wait for word, read."""
    async with asyncio.timeout(10):
        with queue.watching(job_id) as more:
            while True:
                more.clear()
                glance = await queue.follow(job_id)
                assert glance is not None
                if await queue.said(job_id, glance.attempt, 0) == text:
                    return
                await asyncio.wait([asyncio.ensure_future(more.wait())], timeout=0.2)


async def test_whole_lines_are_said_while_the_job_runs(
    queue: Queue, start_engine: Any, make: Any, until: Any, raw: redis.Redis
) -> None:
    pool = InlinePool(behaviour=lambda execution: None)
    await start_engine(pool)
    job = await running(queue, pool, make, until)
    assert await queue.follow(job.job_id) is not None
    pool.outputs[job.job_id] = b"one\ntwo\nthr"
    await read_until(queue, job.job_id, b"one\ntwo\n")
    pool.outputs[job.job_id] = b"one\ntwo\nthree\n"
    await read_until(queue, job.job_id, b"one\ntwo\nthree\n")
    assert await queue.said(job.job_id, 1, 8) == b"three\n"
    pool.finish(job.job_id, Outcome(kind=OutcomeKind.OK, result=b"1", logs=b"one\ntwo\nthree\nend"))
    await until(lambda: raw.get(keys.LOGS + job.job_id) is not None)
    assert await queue.said(job.job_id, None, 14) == b"end"
    glance = await queue.follow(job.job_id)
    assert glance is not None
    assert (glance.status, glance.attempt) == (JobStatus.SUCCEEDED, 1)


async def test_of_a_job_that_nobody_watches_nothing_is_written(
    queue: Queue, start_engine: Any, make: Any, until: Any, raw: redis.Redis
) -> None:
    pool = InlinePool(behaviour=lambda execution: None)
    await start_engine(pool)
    watched, alone = make(), make()
    for job in (watched, alone):
        pool.outputs[job.job_id] = b"line\n"
        await queue.submit(job, reply=False)
    await until(lambda: len(pool.started) == 2)
    await read_until(queue, watched.job_id, b"line\n")
    assert [*raw.scan_iter(keys.LIVE + "*")] == [f"{keys.LIVE}{watched.job_id}:1".encode()]


async def test_a_job_that_is_not_there_has_nothing_to_say(queue: Queue) -> None:
    assert await queue.follow("nobody") is None
    assert await queue.said("nobody", 1, 0) == b""


async def test_a_worker_that_lost_its_lease_is_not_heard(
    queue: Queue, worker: Any, make: Any, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    assert await worker.queue.printed(job.job_id, 1, 0, b"a\n", []) == 1
    assert await worker.queue.printed(job.job_id, 2, 0, b"b\n", []) == 0
    raw.zrem(keys.LEASES, claim.lease)
    assert await worker.queue.printed(job.job_id, 1, 2, b"c\n", []) == 0
    assert await queue.said(job.job_id, 1, 0) == b"a\n"


async def test_what_was_said_and_is_gone_is_said_from_the_beginning(
    queue: Queue, worker: Any, make: Any, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    await worker.step(1)
    assert await worker.queue.printed(job.job_id, 1, 0, b"a\n", []) == 1
    raw.delete(f"{keys.LIVE}{job.job_id}:1")
    assert await worker.queue.printed(job.job_id, 1, 2, b"b\n", []) == -1
    assert await worker.queue.printed(job.job_id, 1, 0, b"a\nb\n", []) == 1
    assert await queue.said(job.job_id, 1, 0) == b"a\nb\n"


async def test_a_stream_on_which_nothing_happens_is_kept_open(
    queue: Queue, worker: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.05)
    monkeypatch.setattr(streams, "LOOK_S", 0.01)
    job = make(delay_ms=60_000)
    await queue.submit(job, reply=False)
    record = await queue.job(job.job_id)
    assert record is not None

    async def nothing(_record: JobRecord) -> None:
        return None

    watch = await DurabilityWatch.open(queue._url)
    stream = streams.follow(queue, Calls(queue, Settings(_env_file=None), watch), record, "events", "", nothing)
    assert isinstance(stream, StreamingResponse)
    said: list[bytes] = []
    async for piece in stream.body_iterator:
        said.append(bytes(piece))
        if said.count(b": ping\n\n") == 2:
            break
    await stream.body_iterator.aclose()
    await watch.close()
    assert said[0] == b"retry: 1000\n\n"
    assert [piece.split(b"\n")[0] for piece in said[1:] if not piece.startswith(b":")] == [b"event: status"]
