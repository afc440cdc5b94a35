"""A worker's slots follow the queue, and the queue is told to whoever adds machines."""

from __future__ import annotations

import pytest
import redis

from sandlot.jobs import Queue
from tests.jobs.conftest import MakeInvocation, StartEngine
from tests.jobs.inline_pool import OK, InlinePool
from tests.waiting import HANG_S, eventually
from worker.engine.capacity import Scaling

DEADLINE_S = HANG_S


@pytest.mark.slow
async def test_slots_grow_with_the_queue_and_go_when_it_is_empty(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation
) -> None:
    pool = InlinePool(2, lambda _: None)
    running = await start_engine(pool, scaling=Scaling(2, 4, lambda: True, shrink_after_beats=1))
    for _ in range(6):
        await queue.submit(make(), reply=False)
    await eventually(lambda: pool.busy == 4)
    assert running.engine.slots == 4

    async def told() -> bool:
        load = await queue.load()
        return [(worker.slots, worker.busy) for worker in load.workers] == [(4, 4)]

    await eventually(told)
    load = await queue.load()
    assert (load.queued, load.running) == (2, 4)
    assert [(queue.queued, queue.running, queue.placement) for queue in load.queues] == [(2, 4, "python")]
    assert load.queues[0].oldest_wait_s > 0
    pool.behaviour = lambda _: OK
    for job_id in [execution.job_id for execution in pool.started]:
        pool.finish(job_id, OK)
    await eventually(lambda: running.engine.slots == 2)
    assert pool.most == 4


@pytest.mark.slow
async def test_heartbeats_carry_the_workers_counts(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation
) -> None:
    await start_engine(InlinePool())
    for _ in range(3):
        await queue.submit(make(), reply=False)

    async def told() -> bool:
        load = await queue.load()
        return any(stats.ok == 3 and sum(stats.buckets) == 3 for w in load.workers for stats in w.functions.values())

    await eventually(told)


async def test_stats_that_cannot_be_read_are_nothing(queue: Queue, start_engine: StartEngine, raw: redis.Redis) -> None:
    running = await start_engine(InlinePool())
    raw.hset(f"sandlot:worker:{running.engine.name}", "stats", b"{")
    load = await queue.load()
    assert [worker.functions for worker in load.workers] == [{}]
