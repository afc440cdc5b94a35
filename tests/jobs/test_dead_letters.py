"""What was tried in vain is listed, can be taken up once, and goes by itself in the end."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from sandlot.errors import CallerError, UnsafeRecord
from sandlot.jobs import JobRecord, Queue
from sandlot.jobs.worker_queue import RetryDecision
from sandlot.models import OutcomeKind
from tests.jobs.conftest import HandWorker, MakeInvocation

LETTERS = "sandlot:dead-letters"


async def write(queue: Queue, worker: HandWorker, make: MakeInvocation, count: int, **fields: Any) -> list[str]:
    jobs = [make(b"%d" % number, **fields) for number in range(count)]
    for job in jobs:
        await queue.submit(job, reply=False)
        (claim,) = (await worker.step(1)).claims
        await worker.step(0)
        await worker.queue.retry_or_fail(worker.ending(claim, kind=OutcomeKind.ERROR), RetryDecision(attempts=1))
    return [job.job_id for job in jobs]


def everything(record: JobRecord) -> bool:
    return True


async def test_pages_hold_all_of_them_once_newest_first(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    ids = await write(queue, worker, make, 7)
    # As many as die in one moment: a worker of many slots is lost.
    raw.zadd(LETTERS, dict(zip(ids, (1, 1, 1, 1, 1, 2, 3), strict=True)))
    seen, cursor, pages = [], "", 0
    while cursor is not None:
        page = await queue.dead_letters.page(everything, limit=2, cursor=cursor)
        seen += [record.id for record in page.letters]
        cursor, pages = page.next, pages + 1
    assert seen == [ids[6], ids[5], *sorted(ids[:5], reverse=True)]
    assert pages == 4


async def test_a_page_holds_only_what_may_be_seen_and_no_record_that_is_gone(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    mine = await write(queue, worker, make, 2, owner="me")
    await write(queue, worker, make, 2, owner="you")
    raw.delete(f"rq:job:{mine[0]}")
    page = await queue.dead_letters.page(lambda record: record.owner == "me", limit=2)
    assert ([record.id for record in page.letters], page.next) == ([mine[1]], None)
    assert (await queue.load()).dead_letters == 4


@pytest.mark.parametrize("cursor", ["x", "1", "-1", "1-", "\u0661-a"])
async def test_a_cursor_of_ones_own_making_is_refused(queue: Queue, cursor: str) -> None:
    with pytest.raises(CallerError, match="returned as next"):
        await queue.dead_letters.page(everything, cursor=cursor)


async def test_a_dead_letter_opens_with_its_event_only_if_its_signature_holds(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    (job_id,) = await write(queue, worker, make, 1, request=b'{"a":1}')
    assert (await queue.dead_letters.get(job_id)).kind is OutcomeKind.ERROR
    envelope, event = await queue.dead_letters.unseal(job_id)
    assert (event, bytes(envelope.request), envelope.version) == (b"0", b'{"a":1}', 1)
    raw.hset(f"rq:job:{job_id}", "data", raw.hget(f"rq:job:{job_id}", "data").replace(b"0", b"1"))
    with pytest.raises(UnsafeRecord):
        await queue.dead_letters.unseal(job_id)


async def test_an_unknown_job_is_not_a_dead_letter(queue: Queue, worker: HandWorker, make: MakeInvocation) -> None:
    job = make()
    await queue.submit(job, reply=False)
    assert await queue.dead_letters.get(job.job_id) is None
    assert not await queue.dead_letters.remove(job.job_id)


async def test_redriving_a_dead_letter_twice_makes_one_job(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    (job_id,) = await write(queue, worker, make, 1)
    successor = queue.dead_letters.redrive_id(job_id)
    assert successor == queue.dead_letters.redrive_id(job_id) != queue.dead_letters.redrive_id(job_id[::-1])
    assert successor[14] == "4", "a UUID like any other job's"
    for _ in range(2):
        await queue.submit(make(job_id=successor), reply=False)
    assert len((await worker.step(5)).claims) == 1
    assert [await queue.dead_letters.remove(job_id) for _ in range(2)] == [True, False]


async def test_after_a_week_or_when_there_are_too_many_they_go(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    old, older = await write(queue, worker, make, 2)
    now_ms = raw.time()[0] * 1000
    raw.zadd(LETTERS, {old: now_ms - 600_000, older: now_ms - 604_801_000})
    await worker.queue.reap()
    assert raw.zrange(LETTERS, 0, -1) == [old.encode()]
    raw.zadd(LETTERS, {f"filler-{number}": now_ms for number in range(10_000)})
    await worker.queue.reap()
    assert raw.zscore(LETTERS, old) is None
    assert raw.zcard(LETTERS) == 10_000
    assert raw.ttl(f"rq:job:{old}") <= 3600
