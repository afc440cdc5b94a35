"""Too much work: refused with a truth, shared out fairly, never more at once than a function allows."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import redis

from sandlot.errors import QueueFull, QueueUnavailable
from sandlot.jobs import Queue
from sandlot.jobs.lua import script
from sandlot.jobs.settlement import LOST_TEXT
from sandlot.models import Outcome, OutcomeKind
from tests.jobs.conftest import KEY
from tests.jobs.inline_pool import OK, InlinePool


@pytest.fixture
async def small(url: str, worker: Any) -> Any:
    opened = await Queue.open(url, KEY, queue_limit=60, queue_limit_per_function=50)
    yield opened
    await opened.close()


async def told(queue: Queue, wanted: Any) -> float:
    with pytest.raises(QueueFull) as refused:
        await queue.submit(wanted, reply=False)
    return refused.value.retry_after_s


async def fill(queue: Queue, make: Any, count: int, **fields: Any) -> None:
    await asyncio.gather(*(queue.submit(make(**fields), reply=False) for _ in range(count)))


async def test_who_is_refused_is_told_when_a_tenth_will_be_free(small: Queue, make: Any, raw: redis.Redis) -> None:
    """Jobs of this function have ended twice a second, others much faster: it is its own queue that is full."""
    await fill(small, make, 50)
    now_s, ttl_s = raw.time()[0], 60
    raw.zadd("rq:finished:hello@python", {f"ok-{n}": now_s + ttl_s - n // 2 for n in range(20)})
    # A dead letter ends later than what ended with it, and days later.
    raw.zadd("rq:failed:hello@python", {"letter": now_s + 604_800})
    raw.set("sandlot:ended", 100_000)
    # 5 places at 2 a second, give or take a tenth, and the second that the clock of the registries has not finished.
    assert 2.0 <= await told(small, make()) <= 3.2


async def test_of_all_queues_together_the_rate_is_that_of_all(small: Queue, make: Any, raw: redis.Redis) -> None:
    await fill(small, make, 40)
    await fill(small, make, 20, function="other")
    raw.set("sandlot:ended", 1200)
    now_ms = raw.time()[0] * 1000
    raw.rpush("sandlot:drained", f"{now_ms} 1195", f"{now_ms - 40_000} 1160", f"{now_ms - 41_000} 1000")
    # 6 places at 200 in 41 s.
    assert 1.0 <= await told(small, make(function="third")) <= 1.5


async def test_when_nothing_ends_nobody_can_tell(small: Queue, make: Any) -> None:
    await fill(small, make, 50)
    assert 9 <= await told(small, make()) <= 11


async def test_the_reaper_notes_how_fast_jobs_end(queue: Queue, worker: Any, make: Any, raw: redis.Redis) -> None:
    for _ in range(2):
        await worker.queue.reap()
    assert raw.llen("sandlot:drained") == 1, "once a second, however many reap"
    await fill(queue, make, 3)
    await worker.step(0, *(worker.ending(claim) for claim in (await worker.step(3)).claims))
    raw.lset("sandlot:drained", 0, "1 0")
    await worker.queue.reap()
    assert raw.lindex("sandlot:drained", 0).split()[1] == b"3"


async def test_when_memory_runs_short_new_work_is_refused_and_the_old_is_finished(
    queue: Queue, worker: Any, make: Any, raw: redis.Redis, until: Any
) -> None:
    await fill(queue, make, 1)
    try:
        raw.config_set("maxmemory", int(raw.info("memory")["used_memory"] * 1.1))
        await worker.queue.reap()
        await until(queue._breakers.memory_percent)
        with pytest.raises(QueueUnavailable, match="% of Redis's memory is used") as refused:
            await queue.submit(make(), reply=False)
        assert refused.value.fields["applied"] == "no"
        (claim,) = (await worker.step(1)).claims
        assert (await worker.step(0, worker.ending(claim))).answers == ["ok"]
    finally:
        raw.config_set("maxmemory", 0)
    queue._breakers._memory = (90, 0.0)  # the last word of it is long ago
    await queue.submit(make(), reply=False)


@pytest.mark.parametrize("slots", [1, 4])
async def test_ten_thousand_queued_jobs_delay_another_function_by_one_slot_at_most(
    queue: Queue, worker: Any, make: Any, open_worker: Any, slots: int
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
    queue: Queue, start_engine: Any, make: Any, raw: redis.Redis
) -> None:
    """Counted where it counts: among the executions of all living workers together, while one of them dies."""
    running, most = set(), 0

    def begins(execution: Any) -> Outcome | None:
        nonlocal most
        running.add((execution.job_id, execution.attempt))
        most = max(most, len(running))
        return None

    engines = [await start_engine(InlinePool(4, begins)) for _ in range(3)]
    jobs = [make(function="capped", concurrency=3) for _ in range(60)]
    futures = [queue.expect(job.job_id) for job in jobs]
    await asyncio.gather(*(queue.submit(job, reply=True) for job in jobs))

    def end_all(engine: Any) -> None:
        for job_id, (execution, _) in list(engine.pool._runs.items()):
            running.discard((job_id, execution.attempt))
            engine.pool.finish(job_id, OK)

    async def die(engine: Any) -> None:
        """Its executions are gone, and it neither says so nor takes more."""
        for execution, _ in engine.pool._runs.values():
            running.discard((execution.job_id, execution.attempt))
        engine.pool._runs.clear()
        engine.pool.slots = 0
        assert await queue._run(script("bury"), LOST_TEXT, engine.engine.name) > 0

    victim = engines[0]
    async with asyncio.timeout(40):
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
