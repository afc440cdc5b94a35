"""A function that crashes again and again is given a rest, and comes back by one job at a time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
import redis

from sandlot.errors import FunctionCrashLoop
from sandlot.jobs import Queue
from sandlot.jobs.worker_queue import Claim, RetryDecision
from sandlot.models import CRASHES, JobStatus, Outcome, OutcomeKind
from tests.jobs.conftest import KEY, HandWorker, MakeInvocation, OpenWorker, StartEngine
from tests.jobs.inline_pool import OK, InlinePool
from tests.waiting import HANG_S, eventually

QUEUE = "hello@python"
CRASHED = RetryDecision(crashed=True)
PROBED = RetryDecision(probe=True)


async def judge(
    worker: HandWorker, claim: Claim, judgement: RetryDecision, kind: OutcomeKind = OutcomeKind.SIGNAL
) -> None:
    assert bytes(await worker.queue.retry_or_fail(worker.ending(claim, kind=kind), judgement)) == b"ok"


async def crash(queue: Queue, worker: HandWorker, make: MakeInvocation, times: int = 5) -> None:
    for _ in range(times):
        await queue.submit(make(), reply=False)
        (claim,) = (await worker.step(1)).claims
        await worker.step(0)
        await judge(worker, claim, CRASHED)


async def refused(queue: Queue, make: MakeInvocation) -> FunctionCrashLoop:
    with pytest.raises(FunctionCrashLoop) as error:
        await queue.submit(make(), reply=False)
    return error.value


def rest_is_over(raw: redis.Redis) -> None:
    times = raw.hget("sandlot:breakers", QUEUE).split()[1].decode()
    raw.hset("sandlot:breakers", QUEUE, f"1 {times}")


@pytest.fixture
async def broken(queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis) -> Queue:
    """A queue whose function has just crashed five times."""
    await eventually(lambda: queue._admission.breakers_to_check == "")
    await crash(queue, worker, make)
    await eventually(lambda: queue._admission.breakers_to_check == f" {QUEUE} ")
    return queue


async def test_four_crashes_are_borne_and_the_fifth_opens_it(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    await crash(queue, worker, make, 4)
    assert not raw.exists("sandlot:breakers")
    await crash(queue, worker, make, 1)
    await eventually(lambda: queue._admission.breakers_to_check == f" {QUEUE} ")
    assert 9 <= (await refused(queue, make)).retry_after_s <= 10
    await queue.submit(make(function="other"), reply=False)


async def test_crashes_that_are_long_ago_do_not_count(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    await crash(queue, worker, make, 4)
    moments = raw.lrange(f"sandlot:crashes:{QUEUE}", 0, -1)
    raw.delete(f"sandlot:crashes:{QUEUE}")
    raw.rpush(f"sandlot:crashes:{QUEUE}", *(int(moment) - 60_001 for moment in moments))
    await crash(queue, worker, make, 4)
    assert not raw.exists("sandlot:breakers")
    await crash(queue, worker, make, 1)
    assert raw.exists("sandlot:breakers")


async def test_queued_jobs_pause_too_and_then_run_one_by_one(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis, open_worker: OpenWorker
) -> None:
    """Otherwise ten thousand queued jobs would crash before anybody were refused."""
    other = await open_worker()
    try:
        for _ in range(8):
            await queue.submit(make(), reply=False)
        for claim in (await worker.step(5)).claims:
            await judge(worker, claim, CRASHED)
        assert (await worker.step(9)).claims == (await other.step(9)).claims == []
        await eventually(lambda: queue._admission.breakers_to_check == f" {QUEUE} ")
        rest_is_over(raw)
        await worker.queue.reap()
        (probe,) = (await worker.step(9)).claims
        assert probe.probe
        assert (await other.step(9)).claims == (await worker.step(9)).claims == []
        assert (await refused(queue, make)).retry_after_s == 1
        await judge(worker, probe, PROBED, OutcomeKind.OK)
        assert [claim.probe for claim in (await other.step(9)).claims] == [False, False]
        await eventually(lambda: queue._admission.breakers_to_check == "")
        await queue.submit(make(), reply=False)
    finally:
        await other.close()


async def test_after_its_rest_exactly_one_of_many_callers_is_let_in(
    broken: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    rest_is_over(raw)
    await worker.step(9)  # parked: a hand-off would be no probe
    answers = await asyncio.gather(*(broken.submit(make(), reply=False) for _ in range(30)), return_exceptions=True)
    let_in = [answer for answer in answers if not isinstance(answer, FunctionCrashLoop)]
    assert [answer.status for answer in let_in] == [JobStatus.QUEUED]
    assert worker.handed == []
    (probe,) = (await worker.step(9)).claims
    assert probe.probe
    await refused(broken, make)


async def test_a_probe_that_crashes_makes_the_rest_longer(
    broken: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    for rest_s in (20, 40, 80, 160, 300, 300):
        rest_is_over(raw)
        await broken.submit(make(), reply=False)
        (probe,) = (await worker.step(1)).claims
        await judge(worker, probe, RetryDecision(crashed=True, probe=True))
        assert rest_s - 2 <= (await refused(broken, make)).retry_after_s <= rest_s


@pytest.mark.parametrize("kind", [OutcomeKind.OK, OutcomeKind.ERROR, OutcomeKind.TIMEOUT])
async def test_a_probe_that_does_not_crash_closes_it(
    broken: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis, kind: OutcomeKind
) -> None:
    rest_is_over(raw)
    await broken.submit(make(), reply=False)
    (probe,) = (await worker.step(1)).claims
    await judge(worker, probe, PROBED, kind)
    assert not raw.exists("sandlot:breakers", "sandlot:caps", f"sandlot:crashes:{QUEUE}")
    await eventually(lambda: broken._admission.breakers_to_check == "")


async def test_a_lost_or_cancelled_probe_is_followed_by_another(
    broken: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    rest_is_over(raw)
    job = make()
    await broken.submit(job, reply=False)
    (probe,) = (await worker.step(1)).claims
    raw.zadd("sandlot:leases", {probe.lease: 1})
    await worker.queue.reap()
    (second,) = (await worker.step(1)).claims
    assert (second.job_id, second.attempt, second.probe) == (job.job_id, 2, True)
    await broken.cancel(job.job_id)
    await judge(worker, second, PROBED, OutcomeKind.CANCELLED)
    await broken.submit(make(), reply=False)
    (third,) = (await worker.step(1)).claims
    assert third.probe


async def test_a_repeated_claim_is_still_marked_as_a_probe(
    broken: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    rest_is_over(raw)
    await broken.submit(make(), reply=True)
    first = await worker.step(1, number=700)
    again = await worker.step(1, number=700)
    assert [(claim.probe, claim.has_waiter) for claim in first.claims + again.claims] == [(True, True)] * 2


async def test_the_cap_of_a_function_is_what_it_was_afterwards(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    for _ in range(5):
        await queue.submit(make(concurrency=3), reply=False)
        await judge(worker, (await worker.step(1)).claims[0], CRASHED)
    assert raw.hgetall("sandlot:caps") == {QUEUE.encode(): b"3", f"!{QUEUE}".encode(): b"0"}
    await queue.close_breaker("hello")
    assert raw.hgetall("sandlot:caps") == {QUEUE.encode(): b"3"}


async def test_mending_lets_everybody_in_at_once(
    broken: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    await broken.close_breaker("hell")
    await refused(broken, make)
    await broken.close_breaker("hello")
    await eventually(lambda: broken._admission.breakers_to_check == "")
    await worker.step(9)
    assert (await broken.submit(make(), reply=False)).status is JobStatus.RUNNING


async def test_a_process_that_starts_later_reads_the_open_breaker(
    broken: Queue, url: str, make: MakeInvocation
) -> None:
    """A process that has just started has heard nothing, and looks."""
    other = await Queue.open(url, KEY, queue_limit=10, queue_limit_per_function=10)
    try:
        await refused(other, make)
    finally:
        await other.close()


async def test_an_engine_stops_a_function_that_crashes(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    kinds = itertools.cycle(sorted(CRASHES))
    running = await start_engine(InlinePool(2, behaviour=lambda execution: Outcome(kind=next(kinds))))

    async def submit_while(broken: bool) -> None:
        async with asyncio.timeout(HANG_S):
            while queue._admission.breakers_to_check.strip() == (QUEUE if broken else ""):
                with contextlib.suppress(FunctionCrashLoop):
                    await queue.submit(make(), reply=False)
                await asyncio.sleep(0)

    await eventually(lambda: queue._admission.breakers_to_check == "")
    await submit_while(False)
    await eventually(running.engine._dispatcher.idle.is_set)
    # Those that were prefetched when it opened have run and were counted as well.
    assert len(running.pool.started) <= 5 + 2 * 3
    assert raw.hget("sandlot:caps", f"!{QUEUE}") == b"0"
    running.pool.behaviour = lambda execution: OK
    rest_is_over(raw)
    await submit_while(True)
    await eventually(lambda: not raw.exists(f"rq:queue:{QUEUE}"))


async def test_exceptions_never_open_it(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    await start_engine(InlinePool(2, behaviour=lambda execution: Outcome(kind=OutcomeKind.ERROR)))
    jobs = [make() for _ in range(20)]
    futures = [queue.waiters.register(job.job_id) for job in jobs]
    await asyncio.gather(*(queue.submit(job, reply=True) for job in jobs))
    await asyncio.wait_for(asyncio.gather(*futures), HANG_S)
    assert not raw.exists("sandlot:breakers", f"sandlot:crashes:{QUEUE}")
