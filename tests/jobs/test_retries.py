"""A failed job runs again as its function wishes, and what has been tried in vain is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from rq.registry import FailedJobRegistry, ScheduledJobRegistry
from rq.serializers import JSONSerializer

from sandlot.jobs import Queue
from sandlot.jobs.worker_queue import Claim, RetryDecision
from sandlot.models import Evidence, FunctionError, JobStatus, Outcome, OutcomeKind, RetryPolicy
from tests.jobs.conftest import HandWorker, MakeInvocation, OpenWorker, StartEngine
from tests.jobs.inline_pool import OK, InlinePool
from tests.waiting import HANG_S, eventually

ERROR = FunctionError(error_type="ValueError", error_message="no")
AGAIN = RetryDecision(attempts=3, backoff_ms=60_000, jitter=1000)


def failing(until_attempt: int) -> Any:
    """Raises on every attempt before this one."""
    return lambda execution: OK if execution.attempt >= until_attempt else Outcome(kind=OutcomeKind.ERROR, error=ERROR)


async def fail(
    worker: HandWorker, claim: Claim, judgement: RetryDecision = AGAIN, kind: OutcomeKind = OutcomeKind.ERROR
) -> bytes:
    ending = worker.ending(claim, kind=kind, error=ERROR, logs=b"tried\n")
    return bytes(await worker.queue.retry_or_fail(ending, judgement))


async def claim_one(worker: HandWorker) -> Any:
    (claim,) = (await worker.step(1)).claims
    return claim


async def claim_when_due(worker: HandWorker, raw: redis.Redis, job_id: str) -> Any:
    raw.zadd("sandlot:due", {job_id: 1})
    assert (await worker.queue.reap()).due == 1
    return await claim_one(worker)


async def test_a_failure_that_may_be_tried_again_waits_with_its_error(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    assert await fail(worker, await claim_one(worker)) == b"again"
    record = await queue.job(job.job_id)
    assert (record.status, record.attempt, record.logs_tail) == (JobStatus.SCHEDULED, 1, "tried\n")
    assert (record.failure.attempt, record.failure.kind, record.failure.error) == (1, OutcomeKind.ERROR, ERROR)
    assert await queue.result(job.job_id) is None
    scheduled = ScheduledJobRegistry("hello@python", connection=raw, serializer=JSONSerializer)
    assert scheduled.get_job_ids() == [job.job_id]
    assert raw.zcard("sandlot:leases") == raw.zcard("rq:wip:hello@python") == 0
    assert raw.hgetall("sandlot:requeues") == {b"error": b"1"}


async def test_the_pause_doubles_and_half_of_it_is_chance(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    claim = await claim_one(worker)
    for jitter, longest_s in ((0, 30), (1000, 120)):
        before = raw.time()[0]
        await fail(worker, claim, RetryDecision(attempts=3, backoff_ms=60_000, jitter=jitter))
        due_s = raw.zscore("sandlot:due", job.job_id) / 1000
        assert before + longest_s <= due_s <= raw.time()[0] + longest_s + 1
        claim = await claim_when_due(worker, raw, job.job_id)


async def test_a_judgement_sent_twice_is_one(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    first = await claim_one(worker)
    assert [await fail(worker, first) for _ in range(2)] == [b"again", b"again"]
    assert raw.hgetall("sandlot:requeues") == {b"error": b"1"}
    second = await claim_when_due(worker, raw, job.job_id)
    assert second.attempt == 2
    # The first attempt's lease is over, whatever its worker still believes.
    assert (await worker.step(0, worker.ending(first, b"1"))).answers == ["stale"]
    last = RetryDecision(attempts=2, backoff_ms=1)
    assert [await fail(worker, second, last) for _ in range(2)] == [b"ok", b"already"]
    assert await fail(worker, first, last) == b"again", "which is what became of it"
    assert raw.xlen(f"rq:results:{job.job_id}") == 1


async def test_a_job_that_succeeds_after_retries_has_a_result_and_its_last_failure(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    await fail(worker, await claim_one(worker))
    claim = await claim_when_due(worker, raw, job.job_id)
    await worker.step(0, worker.ending(claim, b"7"))
    settled = await asyncio.wait_for(future, HANG_S)
    assert (settled.kind, settled.result, settled.attempt) == (OutcomeKind.OK, b"7", 2)
    record = await queue.job(job.job_id)
    assert (record.status, record.error, record.failure.error) == (JobStatus.SUCCEEDED, None, ERROR)


async def test_the_last_failure_is_the_record_and_a_dead_letter(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    assert await fail(worker, await claim_one(worker), RetryDecision(attempts=1, backoff_ms=1)) == b"ok"
    assert (await asyncio.wait_for(future, HANG_S)).error == ERROR
    assert raw.zrange("sandlot:dead-letters", 0, -1) == [job.job_id.encode()]
    assert raw.ttl(f"rq:job:{job.job_id}") > 86_400, "kept until somebody has looked"
    assert FailedJobRegistry("hello@python", connection=raw).get_job_ids() == [job.job_id]


async def test_a_job_of_lost_workers_is_a_dead_letter_after_its_last_attempt(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make(attempts=2)
    await queue.submit(job, reply=False)
    for lost in range(2):
        assert raw.zcard("sandlot:dead-letters") == 0
        raw.zadd("sandlot:leases", {(await claim_one(worker)).lease: 1})
        await worker.queue.reap()
        record = await queue.job(job.job_id)
        assert record.failure.kind is OutcomeKind.WORKER_LOST
        assert record.failure.attempt == 1, lost
    assert raw.zrange("sandlot:dead-letters", 0, -1) == [job.job_id.encode()]


async def test_too_old_is_not_tried_again(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    for _ in range(2):
        await queue.submit(make(), reply=False)
    young, old = (await worker.step(2)).claims
    limit = RetryDecision(attempts=3, backoff_ms=10, max_age_ms=60_000)
    raw.hincrby(f"rq:job:{old.job_id}", "sl_queued_ms", -60_000)
    assert [await fail(worker, claim, limit) for claim in (young, old)] == [b"again", b"ok"]
    assert raw.zrange("sandlot:dead-letters", 0, -1) == [old.job_id.encode()]


async def test_a_lost_worker_does_not_bring_back_what_is_too_old(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    """Whatever a caller writes cannot be taken for the limit."""
    forged = b'{"max_age_ms":1}'
    for policy in (RetryPolicy(max_age_ms=60_000), RetryPolicy()):
        await queue.submit(make(retry=policy, owner='"max_age_ms":1', request=forged), reply=False)
    claims = (await worker.step(2)).claims
    for claim in claims:
        raw.hincrby(f"rq:job:{claim.job_id}", "sl_queued_ms", -60_001)
        raw.zadd("sandlot:leases", {claim.lease: 1})
    reaped = await worker.queue.reap()
    assert (reaped.requeued, reaped.lost) == (1, 1)
    assert (await queue.job(claims[0].job_id)).status is JobStatus.LOST


async def test_a_job_that_expires_before_its_next_attempt_keeps_its_error(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make(not_after_ms=(raw.time()[0] + 30) * 1000)
    await queue.submit(job, reply=False)
    assert await fail(worker, await claim_one(worker)) == b"ok"
    assert (await queue.job(job.job_id)).error == ERROR


async def test_attempts_that_were_given_back_are_not_counted(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    await worker.queue.release([(await claim_one(worker)).lease])
    claim = await claim_one(worker)
    assert claim.attempt == 2
    assert await fail(worker, claim, RetryDecision(attempts=2, backoff_ms=1)) == b"again"


async def test_a_cancelled_job_is_not_retried(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    running, scheduled = make(), make()
    for job in (running, scheduled):
        await queue.submit(job, reply=False)
    first, second = (await worker.step(2)).claims
    await queue.cancel(running.job_id)
    assert await fail(worker, first) == b"ok"
    assert await fail(worker, second) == b"again"
    assert (await queue.cancel(scheduled.job_id)).status is JobStatus.CANCELLED
    assert raw.zcard("sandlot:due") == raw.zcard("rq:scheduled:hello@python") == raw.zcard("sandlot:dead-letters") == 0


async def test_a_failure_frees_its_place_under_the_cap(
    queue: Queue, worker: HandWorker, make: MakeInvocation, open_worker: OpenWorker
) -> None:
    other = await open_worker()
    try:
        for _ in range(2):
            await queue.submit(make(concurrency=1), reply=False)
        claim = await claim_one(worker)
        await other.step(1)
        wakes = other.wakes
        assert await fail(worker, claim) == b"again"
        await eventually(lambda: other.wakes > wakes)
        assert len((await other.step(1)).claims) == 1
    finally:
        await other.close()


@pytest.mark.slow
async def test_an_engine_runs_a_job_until_it_succeeds(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation
) -> None:
    running = await start_engine(InlinePool(behaviour=failing(3)))
    job = make(retry=RetryPolicy(on=(OutcomeKind.ERROR,), backoff_ms=10))
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    settled = await asyncio.wait_for(future, HANG_S)
    assert (settled.kind, settled.attempt) == (OutcomeKind.OK, 3)
    assert [execution.attempt for execution in running.pool.started] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outcome", "letters"),
    [
        (Outcome(kind=OutcomeKind.ERROR, error=ERROR), 0),
        (Outcome(kind=OutcomeKind.EXIT, evidence=Evidence(exit_code=1)), 0),
        (Outcome(kind=OutcomeKind.MEMORY), 1),
    ],
)
async def test_an_engine_asks_for_exactly_what_the_retry_policy_allows(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis, outcome: Outcome, letters: int
) -> None:
    running = await start_engine(InlinePool(behaviour=lambda execution: outcome))
    job = make(retry=RetryPolicy(attempts=2, on=(OutcomeKind.MEMORY,), backoff_ms=10))
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    settled = await asyncio.wait_for(future, HANG_S)
    assert (settled.kind, settled.attempt) == (outcome.kind, 1 + letters)
    assert len(running.pool.started) == 1 + letters
    assert raw.zcard("sandlot:dead-letters") == letters
