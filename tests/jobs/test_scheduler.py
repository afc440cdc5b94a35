"""Schedules on a real server: who fires what, how often, and what is left out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
import redis
from redis.asyncio import Redis

from sandlot.functions import Bundle, Manifest, Registry
from sandlot.functions.schedule import Schedule
from sandlot.jobs import JobRecord, Queue
from sandlot.models import Runtime
from sandlot.redis.connection import connect
from tests.jobs.conftest import KEY, HandWorker, MakeInvocation, OpenWorker
from tests.waiting import eventually
from worker.scheduler import OWNER, ScheduleMarks, Scheduler

CODE = Bundle({"main.py": b"def handler(event, context): return 1"})
YEARLY = "0 0 1 1 *"
EACH_SECOND = "* * * * * *"
MARKS = "sandlot:schedules"


@pytest.fixture
async def client(url: str) -> AsyncIterator[Redis]:
    opened = connect(url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def start(client: Redis, url: str) -> AsyncIterator[Callable[[], Scheduler]]:
    """Start any number of schedulers; all are closed at the end."""
    started: list[Scheduler] = []

    def starter(limit: int = 1000) -> Scheduler:
        def opener() -> Awaitable[Queue]:
            return Queue.open(url, KEY, queue_limit=limit, queue_limit_per_function=limit)

        started.append(Scheduler(client, KEY, opener, result_ttl_s=60))
        started[-1].open()
        return started[-1]

    yield starter
    for one in started:
        await one.close()


async def deploy(client: Redis, schedule: str | None, name: str = "hello") -> None:
    manifest = Manifest(runtime=Runtime.PYTHON, handler="main.handler", schedule=schedule)
    await Registry(client, KEY).deploy(name, CODE, manifest)


async def jobs(queue: Queue, function: str = "hello") -> list[JobRecord]:
    return list((await queue.list_jobs(lambda record: True, function=function, limit=100, cursor="")).jobs)


async def events(queue: Queue, function: str = "hello") -> list[Any]:
    return [msgspec.json.decode(await queue.event(job.id) or b"null") for job in await jobs(queue, function)]


async def long_ago(client: Redis, schedule: str) -> int:
    """As if workers had been away for years: the moment that is to be caught up on."""
    await client.zadd(MARKS, {f"hello UTC {schedule}": 1_500_000_000_000})
    return Schedule(schedule).last_tick_ms(await ScheduleMarks(client).now_ms())


async def test_a_missed_tick_is_caught_up_once_by_any_number_of_workers(
    client: Redis, raw: redis.Redis, queue: Queue, worker: HandWorker, start: Callable[[], Scheduler]
) -> None:
    await deploy(client, YEARLY)
    tick_ms = await long_ago(client, YEARLY)
    for _ in range(4):
        start()
    await eventually(lambda: raw.zscore(MARKS, f"hello UTC {YEARLY}") == tick_ms)
    late = start()
    await eventually(lambda: late._next_ms.get(("hello", Schedule(YEARLY)), 0) > tick_ms)
    assert len(await jobs(queue)) == 1
    [event] = await events(queue)
    assert event["schedule"] == YEARLY
    assert event["time"].endswith("-01-01T00:00:00Z")
    assert queue.was_issued(OWNER, (await jobs(queue))[0].id)


@pytest.mark.slow
async def test_each_moment_is_fired_once_by_however_many(
    client: Redis, raw: redis.Redis, queue: Queue, worker: HandWorker, start: Callable[[], Scheduler]
) -> None:
    for _ in range(3):
        start()
    await deploy(client, EACH_SECOND)
    await eventually(lambda: raw.llen("rq:queue:hello@python") >= 3)
    times = [event["time"] for event in await events(queue)]
    assert len(times) == len(set(times)) >= 3


async def test_a_paused_worker_makes_no_second_job_for_a_fired_tick(
    client: Redis, raw: redis.Redis, queue: Queue, worker: HandWorker, start: Callable[[], Scheduler]
) -> None:
    """The mark is set back, as it was when that worker read it, and the job is no longer kept: its key is."""
    await deploy(client, YEARLY)
    tick_ms = await long_ago(client, YEARLY)
    start()
    await eventually(lambda: raw.zscore(MARKS, f"hello UTC {YEARLY}") == tick_ms)
    [job] = await jobs(queue)
    await queue.cancel(job.id)
    raw.delete(f"rq:job:{job.id}")
    await long_ago(client, YEARLY)
    start()
    await eventually(lambda: raw.zscore(MARKS, f"hello UTC {YEARLY}") == tick_ms)
    assert raw.llen("rq:queue:hello@python") == 0
    assert raw.exists(f"rq:job:{job.id}") == 0


async def test_a_schedule_that_is_new_or_changed_begins_when_it_is_seen(
    client: Redis, raw: redis.Redis, queue: Queue, worker: HandWorker, start: Callable[[], Scheduler]
) -> None:
    await deploy(client, YEARLY)
    start(), start()
    await eventually(lambda: raw.zcard(MARKS) == 1)
    before_ms = raw.zscore(MARKS, f"hello UTC {YEARLY}")
    assert before_ms > Schedule(YEARLY).last_tick_ms(int(before_ms)) + 1000
    await deploy(client, "0 0 2 2 *")
    await eventually(lambda: raw.zrange(MARKS, 0, -1) == [b"hello UTC 0 0 2 2 *"])
    assert await jobs(queue) == []


@pytest.mark.slow
async def test_a_removed_function_or_schedule_is_never_due(
    client: Redis, raw: redis.Redis, queue: Queue, worker: HandWorker, start: Callable[[], Scheduler]
) -> None:
    one, other = start(), start()
    await deploy(client, EACH_SECOND)
    await deploy(client, EACH_SECOND, "other")
    await eventually(lambda: len(one._next_ms) == len(other._next_ms) == 2)
    await Registry(client, KEY).delete("hello")
    await deploy(client, None, "other")
    await eventually(lambda: not one._next_ms and not other._next_ms and not raw.exists(MARKS))
    before = len(await jobs(queue)), len(await jobs(queue, "other"))
    await deploy(client, EACH_SECOND, "third")
    await eventually(lambda: raw.llen("rq:queue:third@python") >= 2)
    assert (len(await jobs(queue)), len(await jobs(queue, "other"))) == before


async def test_a_full_queue_leaves_the_moment_out(
    client: Redis,
    raw: redis.Redis,
    queue: Queue,
    worker: HandWorker,
    make: MakeInvocation,
    start: Callable[[], Scheduler],
) -> None:
    await queue.submit(make(), reply=False)
    await deploy(client, YEARLY)
    tick_ms = await long_ago(client, YEARLY)
    start(limit=1)
    await eventually(lambda: raw.zscore(MARKS, f"hello UTC {YEARLY}") == tick_ms)
    assert raw.llen("rq:queue:hello@python") == 1


@pytest.mark.slow
async def test_without_a_worker_for_it_the_moment_waits(
    client: Redis,
    raw: redis.Redis,
    queue: Queue,
    open_worker: OpenWorker,
    start: Callable[[], Scheduler],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await deploy(client, YEARLY)
    tick_ms = await long_ago(client, YEARLY)
    start()
    await eventually(lambda: "schedule waits for a worker" in caplog.messages)
    worker = await open_worker("python")
    await eventually(lambda: raw.zscore(MARKS, f"hello UTC {YEARLY}") == tick_ms)
    assert len(await jobs(queue)) == 1
    await worker.close()


async def test_an_unsigned_record_blocks_no_other(
    client: Redis, raw: redis.Redis, queue: Queue, worker: HandWorker, start: Callable[[], Scheduler]
) -> None:
    raw.zadd("sandlot:functions", {"forged": 0})
    raw.hset("sandlot:function:forged", mapping={"latest": 1, "last": 1, "v1": "{}"})
    await deploy(client, YEARLY)
    tick_ms = await long_ago(client, YEARLY)
    start()
    await eventually(lambda: raw.zscore(MARKS, f"hello UTC {YEARLY}") == tick_ms)
    assert len(await jobs(queue)) == 1
