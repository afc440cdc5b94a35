"""Many jobs in one script, all of them or none; and the list they then stand in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from sandlot.errors import IdempotencyConflict, NoWorker, QueueFull
from sandlot.jobs import Queue, new_job_id
from sandlot.jobs.inspection import JobRecord
from sandlot.models import JobStatus, OutcomeKind
from sandlot.redis import keys
from tests.jobs.conftest import HandWorker, MakeInvocation
from tests.waiting import eventually


def everything(record: JobRecord) -> bool:
    return True


def in_order(make: MakeInvocation, count: int, **fields: Any) -> list[Any]:
    """Invocations whose ids sort as they stand, although they are made within a millisecond."""
    ids = sorted(new_job_id() for _ in range(count))
    return [make(b"%d" % index, job_id=job_id, **fields) for index, job_id in enumerate(ids)]


async def test_all_of_a_batch_are_queued_in_order(queue: Queue, worker: HandWorker, make: MakeInvocation) -> None:
    batch = in_order(make, 1000)
    ids = await queue.submit_batch(batch, "", "f")
    assert ids == [job.job_id for job in batch]
    claims = [claim for _ in range(10) for claim in (await worker.step(100)).claims]
    assert [worker.queue.unseal(claim)[1] for claim in claims] == [b"%d" % index for index in range(1000)]


async def test_a_batch_that_does_not_fit_is_refused_whole(
    url: str, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    queue = await Queue.open(url, b"k" * 32, queue_limit=25, queue_limit_per_function=10)
    try:
        with pytest.raises(QueueFull, match="the queue of 'hello' holds 0 jobs"):
            await queue.submit_batch(in_order(make, 11), "", "f")
        await queue.submit_batch(in_order(make, 10), "", "f")
        await queue.submit_batch(in_order(make, 10, function="other"), "", "f")
        with pytest.raises(QueueFull, match="all queues together hold 20 jobs"):
            await queue.submit_batch(in_order(make, 6, function="third"), "", "f")
        assert int(raw.get(keys.DEPTH)) == 20
        assert len([*raw.scan_iter(keys.JOB + "*")]) == 20
    finally:
        await queue.close()


async def test_without_a_worker_no_job_is_queued(queue: Queue, make: MakeInvocation, raw: redis.Redis) -> None:
    with pytest.raises(NoWorker):
        await queue.submit_batch(in_order(make, 3), "", "f")
    assert [*raw.scan_iter(keys.JOB + "*")] == []


async def test_a_batch_is_the_same_batch_under_its_key(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    first = await queue.submit_batch(in_order(make, 5), "k", "same")
    assert await queue.submit_batch(in_order(make, 5), "k", "same") == first
    with pytest.raises(IdempotencyConflict):
        await queue.submit_batch(in_order(make, 5), "k", "other")
    assert int(raw.get(keys.DEPTH)) == 5


async def test_a_batch_that_is_sent_again_is_there_once_even_if_it_filled_the_queue(
    url: str, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    queue = await Queue.open(url, b"k" * 32, queue_limit=10, queue_limit_per_function=10)
    try:
        batch = in_order(make, 10)
        assert await queue.submit_batch(batch, "", "f") == await queue.submit_batch(batch, "", "f")
        assert int(raw.get(keys.DEPTH)) == 10
    finally:
        await queue.close()


async def test_a_batch_goes_to_idle_slots_and_the_rest_waits(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    assert (await worker.step(2)).parked
    await queue.submit_batch(in_order(make, 5), "", "f")
    await eventually(lambda: len(worker.handed) == 2)
    assert (await queue.status()).queued == 3


async def test_jobs_are_listed_newest_first_whatever_they_do(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    batch = in_order(make, 6)
    await asyncio.gather(*(queue.submit(job, reply=False) for job in batch))
    claims = (await worker.step(3)).claims
    await worker.step(0, worker.ending(claims[0]), worker.ending(claims[1], kind=OutcomeKind.ERROR))
    await queue.cancel(batch[5].job_id)
    page = await queue.list_jobs(everything, function="", limit=10, cursor="")
    assert [record.id for record in page.jobs] == [job.job_id for job in reversed(batch)]
    assert sorted(record.status for record in page.jobs) == [
        JobStatus.CANCELLED, JobStatus.FAILED, JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED,
    ]  # fmt: skip
    assert page.next == ""


async def test_pages_meet_without_a_gap_over_several_functions(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    ids = sorted(new_job_id() for _ in range(25))
    for number, job_id in enumerate(ids):
        await queue.submit(make(job_id=job_id, function=f"f{number % 3}"), reply=False)
    seen, cursor = [], ""
    while True:
        page = await queue.list_jobs(everything, function="", limit=4, cursor=cursor)
        seen += [record.id for record in page.jobs]
        cursor = page.next
        if not cursor:
            break
    assert seen == ids[::-1]
    only = await queue.list_jobs(everything, function="f1", limit=100, cursor="")
    assert [record.id for record in only.jobs] == ids[1::3][::-1]


async def test_listing_skips_jobs_that_do_not_match(queue: Queue, worker: HandWorker, make: MakeInvocation) -> None:
    batch = in_order(make, 300)
    await queue.submit_batch(batch, "", "f")
    oldest = batch[0].job_id
    page = await queue.list_jobs(lambda record: record.id == oldest, function="", limit=5, cursor="")
    assert [record.id for record in page.jobs] == [oldest]


async def test_a_job_leaves_the_list_with_its_registry(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    await worker.step(0, worker.ending(claim))
    index = keys.INDEX + "hello@python"
    assert raw.zcard(index) == 1
    raw.delete(keys.JOB + job.job_id)
    assert (await queue.list_jobs(everything, function="", limit=5, cursor="")).jobs == ()
    raw.zadd("rq:finished:hello@python", {job.job_id: 1})
    await worker.queue.reap()
    assert raw.zcard(index) == 0
