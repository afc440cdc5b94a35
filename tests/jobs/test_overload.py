"""Too much work: refused with a truth, shared out fairly, never more at once than a function allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from sandlot.errors import QueueFull, QueueUnavailable
from sandlot.jobs import Queue
from sandlot.jobs.settlement import LOST_EXC_STRING
from sandlot.models import Invocation, Outcome, OutcomeKind
from sandlot.redis.lua import script
from tests.jobs.conftest import KEY, HandWorker, MakeInvocation, OpenWorker, RunningEngine, StartEngine
from tests.jobs.inline_pool import OK, InlinePool
from tests.waiting import HANG_S, eventually
from worker.execution import Execution


@pytest.fixture
async def small(url: str, worker: HandWorker) -> AsyncIterator[Queue]:
    opened = await Queue.open(url, KEY, queue_limit=60, queue_limit_per_function=50)
    yield opened
    await opened.close()


async def told(queue: Queue, wanted: Invocation) -> float:
    with pytest.raises(QueueFull) as refused:
        await queue.submit(wanted, reply=False)
    return refused.value.retry_after_s


async def fill(queue: Queue, make: MakeInvocation, count: int, **fields: Any) -> None:
    await asyncio.gather(*(queue.submit(make(**fields), reply=False) for _ in range(count)))


def note_claims(raw: redis.Redis, queue: str, *ages_and_counts: tuple[float, int]) -> None:
    """As steps note them, newest first. In these tests ages are so large that it does not matter how long the test takes."""
    now_ms = int(raw.time()[0]) * 1000
    raw.delete(f"sandlot:taken:{queue}")
    raw.rpush(f"sandlot:taken:{queue}", *(f"{now_ms - age_s * 1000:.0f} {count}" for age_s, count in ages_and_counts))


async def test_each_refused_caller_gets_a_slot_of_its_own_in_retry_after(
    small: Queue, make: MakeInvocation, raw: redis.Redis
) -> None:
    """Eight places in the last 80 s are one in ten seconds; what was claimed before those eight no longer counts."""
    await fill(small, make, 50)
    note_claims(raw, "hello@python", (20, 2), (30, 2), (60, 4), (80, 1000), (81, 1000))
    raw.set("sandlot:ended", 100_000)
    assert [round(await told(small, make()), -1) for _ in range(3)] == [10, 20, 30]
    together = await asyncio.gather(*(told(small, make()) for _ in range(5)))
    assert [round(each_s, -1) for each_s in together] == [40, 50, 60, 70, 80]


@pytest.mark.parametrize(("place_ms", "first_ms"), [(10, 110), (1, 51)])
async def test_retry_after_promises_no_slot_that_is_gone_by_then(
    small: Queue, make: MakeInvocation, raw: redis.Redis, place_ms: int, first_ms: int
) -> None:
    """Those places are for who comes meanwhile; but no longer than the queue lasts."""
    await fill(small, make, 50)
    note_claims(raw, "hello@python", (0, 600_000 // place_ms), (600, 1))
    assert await told(small, make()) * 1000 == pytest.approx(first_ms, rel=0.05)


async def test_no_more_is_promised_than_some_turns_of_the_queue(
    small: Queue, make: MakeInvocation, raw: redis.Redis
) -> None:
    """Who is refused need not come back, and the places meant for those who did not must not frighten others away."""
    await fill(small, make, 50)
    note_claims(raw, "hello@python", (2, 4), (3, 4), (4, 1))  # a place each half second, 25 s a turn
    told_s = await asyncio.gather(*(told(small, make()) for _ in range(600)))
    assert max(told_s) == pytest.approx(200, rel=0.5)
    assert sum(each_s == pytest.approx(max(told_s), rel=0.02) for each_s in told_s) > 30


async def test_a_change_of_pace_is_seen_after_two_rounds(
    small: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    """Sixteen places are two rounds of eight that run: at 100 a second they were claimed, and then two rounds at 8 in 100 s."""
    await fill(small, make, 50)
    assert len((await worker.step(8)).claims) == 8
    await fill(small, make, 8)
    fast = [(300.1 + n / 100, 1) for n in range(200)]
    note_claims(raw, "hello@python", (300, 8), *fast)
    assert await told(small, make()) == pytest.approx(300 / 16, rel=0.05)
    raw.delete("sandlot:promised")
    note_claims(raw, "hello@python", (100, 8), (200, 8), (300, 8), *fast)
    assert await told(small, make()) == pytest.approx(300 / 16, rel=0.05)
    raw.delete("sandlot:promised")
    note_claims(raw, "hello@python", *[(1 + n / 10, 1) for n in range(20)], (1000, 8), (2000, 8))
    assert await told(small, make()) == pytest.approx(0.1 + 2.6 / 16, rel=0.9), "and the other way round"


async def test_before_a_full_queue_was_claimed_from_the_last_runs_say_how_long_one_takes(
    small: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    """Four run, and those that ended last, delivered or not, ran for 20 s: a place every five seconds, the first after the tenth of one that it takes to be back."""
    now_s = raw.time()[0]
    for registry, number, ttl_s in (("finished", 0, 60), ("finished", 1, 30), ("failed", 2, 60)):
        raw.zadd(f"rq:{registry}:hello@python", {f"job-{number}": now_s + ttl_s})
        raw.hset(
            f"rq:job:job-{number}",
            mapping={"sl_started_ms": (now_s - 20) * 1000, "sl_ended_ms": now_s * 1000},
        )
    # One that ended long ago, and will be forgotten when the one that was just delivered will.
    raw.zadd("rq:finished:hello@python", {"job-old": now_s + 30})
    raw.hset("rq:job:job-old", mapping={"sl_started_ms": 0, "sl_ended_ms": 40 * 8 * 1000 + 1})
    assert (await worker.step(4)).parked
    await fill(small, make, 54)
    raw.delete("rq:job:job-old")
    with pytest.raises(QueueFull) as refused:
        await small.submit(make(delivered_ttl_s=30), reply=True)
    assert refused.value.retry_after_s == 5.1


async def test_the_rate_for_all_queues_is_that_of_all_together(
    small: Queue, make: MakeInvocation, raw: redis.Redis
) -> None:
    await fill(small, make, 40)
    await fill(small, make, 20, function="other")
    raw.set("sandlot:ended", 1200)
    now_ms = raw.time()[0] * 1000
    raw.rpush(
        "sandlot:drained",
        f"{now_ms} 1200",
        f"{now_ms - 40_000} 1196",
        f"{now_ms - 80_000} 1192",
        f"{now_ms - 90_000} 100",
    )
    # 8 ends in 80 s.
    assert [round(await told(small, make(function=name)), -1) for name in ("third", "fourth")] == [10, 20]


async def test_a_refused_batch_gets_the_time_when_all_of_it_fits(
    small: Queue, make: MakeInvocation, raw: redis.Redis
) -> None:
    await fill(small, make, 45)
    note_claims(raw, "hello@python", (20, 4), (30, 4), (80, 1))
    with pytest.raises(QueueFull) as refused:
        await small.submit_batch([make() for _ in range(9)], "", "")
    assert refused.value.retry_after_s == pytest.approx(40, rel=0.05), "five places are there, four are not"


async def test_without_ended_jobs_retry_after_is_the_default(small: Queue, make: MakeInvocation) -> None:
    await fill(small, make, 50)
    assert 9 <= await told(small, make()) <= 11


async def test_claims_are_noted_as_long_as_a_queue_is_not_empty(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    name = "sandlot:taken:hello@python"
    await fill(queue, make, 10)
    for free in (2, 3):
        await worker.step(free)
    assert [entry.split()[1] for entry in raw.lrange(name, 0, -1)] == [b"3", b"2"]
    await worker.step(5)
    await fill(queue, make, 1)
    assert not raw.exists(name), "what was claimed before the queue was empty says nothing about now"
    raw.rpush(name, *["1 1"] * 700)
    await worker.step(1)
    assert raw.llen(name) == 512


async def test_the_reaper_notes_how_fast_jobs_end(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    for _ in range(2):
        await worker.queue.reap()
    assert raw.llen("sandlot:drained") == 1, "once a second, however many reap"
    await fill(queue, make, 3)
    await worker.step(0, *(worker.ending(claim) for claim in (await worker.step(3)).claims))
    raw.lset("sandlot:drained", 0, "1 0")
    await worker.queue.reap()
    assert raw.lindex("sandlot:drained", 0).split()[1] == b"3"


async def test_when_memory_runs_short_new_work_is_refused_and_the_old_is_finished(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    await fill(queue, make, 1)
    try:
        raw.config_set("maxmemory", int(raw.info("memory")["used_memory"] * 1.1))
        await worker.queue.reap()
        await eventually(queue._admission.memory_percent)
        with pytest.raises(QueueUnavailable, match="% of Redis's memory is used") as refused:
            await queue.submit(make(), reply=False)
        assert refused.value.fields["applied"] == "no"
        (claim,) = (await worker.step(1)).claims
        assert (await worker.step(0, worker.ending(claim))).answers == ["ok"]
    finally:
        raw.config_set("maxmemory", 0)
    queue._admission.memory_alert = (90, 0.0)  # the last alert has expired
    await queue.submit(make(), reply=False)


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 4])
async def test_ten_thousand_queued_jobs_delay_another_function_by_one_slot_at_most(
    queue: Queue, worker: HandWorker, make: MakeInvocation, open_worker: OpenWorker, slots: int
) -> None:
    """Of the slots that come free after its submit, the first or the second is its own: one run of the noisy one at most comes first."""
    others = [await open_worker() for _ in range(2)]
    workers = [worker, *others]
    try:
        await fill(queue, make, 10_000, function="noisy")
        busy = [(each, claim) for each in workers for claim in (await each.step(slots)).claims]
        dice = random.Random(6)  # noqa: S311  # which slot comes free first
        for number in range(5):
            wanted = make(function=f"quiet-{number}")
            await queue.submit(wanted, reply=False)
            noisy_first = 0
            while True:
                each, ended = busy.pop(dice.randrange(len(busy)))
                (claim,) = (await each.step(1, each.ending(ended))).claims
                busy.append((each, claim))
                if claim.job_id == wanted.job_id:
                    break
                noisy_first += 1
            assert noisy_first <= 1
    finally:
        for each in others:
            await each.close()


async def test_no_worker_lost_or_found_runs_more_at_once_than_a_function_allows(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    """Counted where it counts: among the executions of all living workers together, while one of them dies."""
    running, most = set(), 0

    def begins(execution: Execution) -> Outcome | None:
        nonlocal most
        running.add((execution.job_id, execution.attempt))
        most = max(most, len(running))
        return None

    engines = [await start_engine(InlinePool(4, begins)) for _ in range(3)]
    jobs = [make(function="capped", concurrency=3) for _ in range(60)]
    futures = [queue.waiters.register(job.job_id) for job in jobs]
    await asyncio.gather(*(queue.submit(job, reply=True) for job in jobs))

    def end_all(engine: RunningEngine) -> None:
        for job_id, (execution, _) in list(engine.pool._runs.items()):
            running.discard((job_id, execution.attempt))
            engine.pool.finish(job_id, OK)

    async def die(engine: RunningEngine) -> None:
        """Its executions are gone, and it neither says so nor takes more."""
        for execution, _ in engine.pool._runs.values():
            running.discard((execution.job_id, execution.attempt))
        engine.pool._runs.clear()
        engine.pool.slots = 0
        assert await queue._run(script("worker_died"), LOST_EXC_STRING, engine.engine.name) > 0

    victim = engines[0]
    async with asyncio.timeout(HANG_S):
        while not all(future.done() for future in futures):
            if victim in engines and sum(future.done() for future in futures) > 20 and victim.pool.busy:
                engines.remove(victim)
                await die(victim)
            for engine in engines:
                end_all(engine)
            await asyncio.sleep(0.001)
    assert victim not in engines
    assert {future.result().kind for future in futures} == {OutcomeKind.OK}
    assert most == 3
