"""The engine: claims, executes, records; survives Redis and its own neighbours."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import redis
from rq.worker import Worker

from sandlot.errors import SandboxUnavailable, VersionNotFound
from sandlot.jobs import Queue
from sandlot.models import JobStatus, Outcome, OutcomeKind
from tests.jobs.conftest import HandWorker, MakeInvocation, StartEngine
from tests.jobs.inline_pool import OK, InlinePool
from tests.waiting import HANG_S, eventually

ECHO = lambda execution: Outcome(kind=OutcomeKind.OK, result=execution.event)  # noqa: E731


async def call(queue: Queue, job: Any, timeout_s: float = 10.0) -> Any:
    future = queue.waiters.register(job.job_id)
    try:
        await queue.submit(job, reply=True)
        return await asyncio.wait_for(future, timeout_s)
    finally:
        queue.waiters.unregister(job.job_id, future)


async def test_a_call_returns_what_the_function_returned(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation
) -> None:
    await start_engine(InlinePool(behaviour=ECHO))
    settled = await call(queue, make(b'{"x":[1,2]}'))
    assert (settled.kind, settled.result) == (OutcomeKind.OK, b'{"x":[1,2]}')


async def test_many_calls_at_once_never_exceed_the_slots(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation
) -> None:
    running = await start_engine(InlinePool(3, ECHO))
    settled = await asyncio.gather(*(call(queue, make(b"%d" % n)) for n in range(500)))
    assert [one.result for one in settled] == [b"%d" % n for n in range(500)]
    assert running.pool.most <= 3
    assert {one.attempt for one in settled} == {1}


async def test_short_runs_are_claimed_ahead_and_what_then_waits_in_vain_goes_to_another(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    """Jobs in hand are only worth it while runs are short: once they are not, they must not stand behind a long one."""
    running = await start_engine(InlinePool(2, ECHO))
    await asyncio.gather(*(call(queue, make()) for _ in range(100)))
    pool, dispatcher = running.pool, running.engine._dispatcher
    pool.behaviour = lambda execution: None
    waiting = [asyncio.create_task(call(queue, make())) for _ in range(20)]
    await eventually(lambda: raw.llen("rq:queue:hello@python") == 18)
    pool.finish(pool.started[-1].job_id)
    await eventually(lambda: dispatcher.running == 2 + 17)  # all that are left
    other = await start_engine(InlinePool(20, ECHO))
    await eventually(lambda: dispatcher.running == 2 and len(other.pool.started) == 17)
    for execution in pool.started[-2:]:
        pool.finish(execution.job_id)
    pool.finish(pool.started[-3].job_id)
    assert len(await asyncio.gather(*waiting)) == 20
    assert pool.most <= 2


async def test_two_engines_share_the_work(queue: Queue, start_engine: StartEngine, make: MakeInvocation) -> None:
    pools = [InlinePool(2, ECHO), InlinePool(2, ECHO)]
    for pool in pools:
        await start_engine(pool)
    await asyncio.gather(*(call(queue, make()) for _ in range(300)))
    assert sum(len(pool.started) for pool in pools) == 300
    assert min(len(pool.started) for pool in pools) > 50


async def test_an_unsigned_job_ends_as_an_error_and_is_never_executed(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    running = await start_engine(InlinePool(behaviour=ECHO))
    foreign = await Queue.open(
        f"unix://{raw.connection_pool.connection_kwargs['path']}",
        b"x" * 32,
        queue_limit=10,
        queue_limit_per_function=10,
    )
    job = make()
    try:
        await foreign.submit(job, reply=False)
    finally:
        await foreign.close()
    settled = await asyncio.wait_for(poll(queue, job.job_id), HANG_S)
    assert settled.kind is OutcomeKind.ERROR
    assert settled.error.error_type == "Sandlot.UnsafeRecord"
    assert running.pool.started == []


async def test_an_event_exchanged_in_redis_is_never_executed(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis, worker: HandWorker
) -> None:
    job = make(b'{"amount":1}')
    await queue.submit(job, reply=False)
    raw.hset(f"rq:job:{job.job_id}", "data", b'["sandlot.jobs.invoke",null,[{"amount":1000000}],{}]')
    running = await start_engine(InlinePool(behaviour=ECHO))
    settled = await asyncio.wait_for(poll(queue, job.job_id), HANG_S)
    assert settled.error.error_type == "Sandlot.UnsafeRecord"
    assert running.pool.started == []


async def poll(queue: Queue, job_id: str) -> Any:
    while (settled := await queue.result(job_id)) is None:  # noqa: ASYNC110  # nobody asked for a message
        await asyncio.sleep(0.01)
    return settled


async def test_a_job_that_can_never_run_ends_as_an_error(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation
) -> None:
    await start_engine(InlinePool(behaviour=lambda _: VersionNotFound("there is no such version")))
    settled = await call(queue, make())
    assert (settled.kind, settled.error.error_type) == (OutcomeKind.ERROR, "Sandlot.VersionNotFound")


@pytest.mark.slow
async def test_a_fault_of_the_platform_costs_the_job_no_attempt(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation
) -> None:
    faults = [SandboxUnavailable("no memory")]
    await start_engine(InlinePool(behaviour=lambda _: faults.pop() if faults else OK))
    settled = await call(queue, make(attempts=1))
    assert settled.kind is OutcomeKind.OK


@pytest.mark.slow
@pytest.mark.parametrize("message", ["heard", "lost"])
async def test_cancelling_a_running_job_kills_it(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis, message: str
) -> None:
    running = await start_engine(InlinePool(behaviour=lambda _: None))
    job = make()
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    await eventually(lambda: running.pool.started)
    if message == "lost":
        running.queue._subscription._on_message = lambda payload: None
    await queue.cancel(job.job_id)
    assert (await asyncio.wait_for(future, HANG_S)).kind is OutcomeKind.CANCELLED  # lost: with the next beat


@pytest.mark.slow
async def test_a_lost_lease_kills_the_execution_and_its_outcome_is_not_recorded(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    running = await start_engine(InlinePool(behaviour=lambda _: None))
    job = make()
    await queue.submit(job, reply=False)
    await eventually(lambda: running.pool.started)
    raw.zrem("sandlot:leases", f"{job.job_id}:1")
    await eventually(lambda: running.pool.abandoned == [job.job_id])
    assert await queue.result(job.job_id) is None


async def test_a_drain_finishes_what_runs_and_claims_nothing_more(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    running = await start_engine(InlinePool(1, lambda _: None))
    first, second = make(), make()
    await queue.submit(first, reply=False)
    await eventually(lambda: running.pool.started)
    await queue.submit(second, reply=False)
    running.engine.stop()
    await eventually(lambda: running.engine._dispatcher.draining)
    running.pool.finish(first.job_id)
    await asyncio.wait_for(running.task, HANG_S)
    assert (await queue.job(first.job_id)).status is JobStatus.SUCCEEDED
    assert (await queue.job(second.job_id)).status is JobStatus.QUEUED
    assert raw.zcard("sandlot:parked:python") == 0
    assert Worker.count(connection=raw) == 0


async def test_a_drain_that_takes_too_long_gives_jobs_back_without_using_their_attempt(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation
) -> None:
    running = await start_engine(InlinePool(1, lambda _: None), drain_s=0.05)
    job = make(attempts=1)
    await queue.submit(job, reply=False)
    await eventually(lambda: running.pool.started)
    running.engine.stop()
    await asyncio.wait_for(running.task, HANG_S)
    assert running.pool.abandoned == [job.job_id]
    assert (await queue.job(job.job_id)).status is JobStatus.QUEUED
    await start_engine(InlinePool(behaviour=ECHO))
    assert (await asyncio.wait_for(poll(queue, job.job_id), HANG_S)).kind is OutcomeKind.OK


async def test_a_second_signal_gives_back_at_once(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation
) -> None:
    running = await start_engine(InlinePool(1, lambda _: None), drain_s=600)
    job = make()
    await queue.submit(job, reply=False)
    await eventually(lambda: running.pool.started)
    running.engine.stop()
    running.engine.stop()
    await asyncio.wait_for(running.task, HANG_S)
    assert (await queue.job(job.job_id)).status is JobStatus.QUEUED


async def test_a_hand_off_that_meets_a_draining_worker_goes_back(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    running = await start_engine(InlinePool(2, lambda _: None))
    blocker, late = make(), make(attempts=1)
    await queue.submit(blocker, reply=False)
    await eventually(lambda: running.pool.started)
    # As if the submit's message had been on its way when the drain began.
    running.engine._dispatcher.draining = True
    assert (await queue.submit(late, reply=False)).status is JobStatus.RUNNING
    await eventually(lambda: raw.hget(f"rq:job:{late.job_id}", "status") == b"queued")
    running.engine._dispatcher.draining = False
    running.pool.finish(blocker.job_id)


@pytest.mark.slow
async def test_rq_sees_the_worker_as_long_as_it_lives(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    running = await start_engine(InlinePool(behaviour=ECHO))
    await call(queue, make())
    await eventually(lambda: [w.successful_job_count for w in Worker.all(connection=raw, serializer="json")] == [1])
    (seen,) = Worker.all(connection=raw, serializer="json")
    assert (seen.name, seen.get_state(), seen.queue_names()) == (running.engine.name, "idle", ["*@python"])
    raw.delete(running.engine.key)
    await eventually(lambda: raw.exists(running.engine.key))


async def test_rqs_own_loop_is_refused(start_engine: StartEngine) -> None:
    running = await start_engine(InlinePool())
    for name in ("work", "subscribe", "perform_job", "clean_registries"):
        with pytest.raises(NotImplementedError):
            getattr(running.engine, name)()


@pytest.mark.slow
async def test_losing_everything_in_redis_does_not_end_the_engine(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    running = await start_engine(InlinePool(behaviour=ECHO))
    raw.flushall()
    raw.script_flush()
    await eventually(lambda: raw.zscore("sandlot:parked:python", running.engine.name) is not None)
    assert (await call(queue, make(b"7"))).result == b"7"


@pytest.mark.slow
async def test_a_job_due_between_two_heartbeats_does_not_wait_for_the_second(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.engine.engine.CONTACT_BEFORE_REAPING_S", 0)
    monkeypatch.setattr("worker.engine.engine.HEARTBEAT_S", 0.1)
    running = await start_engine(InlinePool(behaviour=ECHO))
    await queue.submit(make(delay_ms=800), reply=False)
    await eventually(lambda: running.engine._reap_at_s < math.inf)
    # Beats are known to go on; that there will be none for an hour shows who it was.
    monkeypatch.setattr("worker.engine.engine.HEARTBEAT_S", 3600)
    await eventually(lambda: running.pool.started)
