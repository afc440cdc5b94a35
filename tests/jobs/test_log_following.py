"""What a job prints is said while it runs, to those who watch, once; and those who watch cost one look for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from api.routes import events
from sandlot.jobs import Queue, notifications
from sandlot.jobs.notifications import JobSnapshot
from sandlot.models import JobStatus, Outcome, OutcomeKind
from sandlot.redis import keys
from tests.jobs.conftest import HandWorker, MakeInvocation, StartEngine
from tests.jobs.inline_pool import InlinePool
from tests.jobs.stream_readers import Reader, Readers
from tests.waiting import HANG_S, eventually

MANY = 200


async def running(queue: Queue, pool: InlinePool, make: MakeInvocation) -> Any:
    job = make()
    await queue.submit(job, reply=False)
    await eventually(lambda: pool.started)
    return job


async def read_until(queue: Queue, job_id: str, text: bytes) -> None:
    """As a watcher does: follow, wait for word, read."""
    async with asyncio.timeout(HANG_S):
        with queue.follow(job_id) as follower:
            while True:
                await follower.changed.wait()
                follower.changed.clear()
                if (
                    follower.snapshot is not None
                    and await queue.read_logs(job_id, follower.snapshot.attempt, 0) == text
                ):
                    return


async def glance_at(queue: Queue, job_id: str) -> JobSnapshot | None:
    async with asyncio.timeout(HANG_S):
        with queue.follow(job_id) as follower:
            await follower.changed.wait()
            return follower.snapshot


@pytest.mark.slow
async def test_whole_lines_are_streamed_while_the_job_runs(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    pool = InlinePool(behaviour=lambda execution: None)
    await start_engine(pool)
    job = await running(queue, pool, make)
    assert await glance_at(queue, job.job_id) == JobSnapshot(JobStatus.RUNNING, 1)
    pool.outputs[job.job_id] = b"one\ntwo\nthr"
    await read_until(queue, job.job_id, b"one\ntwo\n")
    pool.outputs[job.job_id] = b"one\ntwo\nthree\n"
    await read_until(queue, job.job_id, b"one\ntwo\nthree\n")
    assert await queue.read_logs(job.job_id, 1, 8) == b"three\n"
    pool.finish(job.job_id, Outcome(kind=OutcomeKind.OK, result=b"1", logs=b"one\ntwo\nthree\nend"))
    await eventually(lambda: raw.get(keys.LOGS + job.job_id) is not None)
    assert await queue.read_logs(job.job_id, None, 14) == b"end"
    assert await glance_at(queue, job.job_id) == JobSnapshot(JobStatus.SUCCEEDED, 1)


async def test_a_job_without_followers_writes_no_live_logs(
    queue: Queue, start_engine: StartEngine, make: MakeInvocation, raw: redis.Redis
) -> None:
    pool = InlinePool(behaviour=lambda execution: None)
    await start_engine(pool)
    watched, alone = make(), make()
    for job in (watched, alone):
        pool.outputs[job.job_id] = b"line\n"
        await queue.submit(job, reply=False)
    await eventually(lambda: len(pool.started) == 2)
    await read_until(queue, watched.job_id, b"line\n")
    assert [*raw.scan_iter(keys.LIVE + "*")] == [f"{keys.LIVE}{watched.job_id}:1".encode()]


async def test_a_job_that_is_not_there_has_nothing_to_say(queue: Queue) -> None:
    assert await glance_at(queue, "nobody") is None
    assert await queue.read_logs("nobody", 1, 0) == b""


async def test_a_worker_that_lost_its_lease_is_not_heard(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    assert await worker.queue.append_logs(job.job_id, 1, 0, b"a\n", []) == 1
    assert await worker.queue.append_logs(job.job_id, 2, 0, b"b\n", []) == 0
    raw.zrem(keys.LEASES, claim.lease)
    assert await worker.queue.append_logs(job.job_id, 1, 2, b"c\n", []) == 0
    assert await queue.read_logs(job.job_id, 1, 0) == b"a\n"


async def test_lost_live_logs_are_sent_from_the_beginning(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    await worker.step(1)
    assert await worker.queue.append_logs(job.job_id, 1, 0, b"a\n", []) == 1
    raw.delete(f"{keys.LIVE}{job.job_id}:1")
    assert await worker.queue.append_logs(job.job_id, 1, 2, b"b\n", []) == -1
    assert await worker.queue.append_logs(job.job_id, 1, 0, b"a\nb\n", []) == 1
    assert await queue.read_logs(job.job_id, 1, 0) == b"a\nb\n"


@pytest.fixture
async def read(queue: Queue, url: str) -> AsyncIterator[Callable[[str], Any]]:
    """Begins to read the stream of a job."""
    async with Readers(queue, url) as readers:
        yield readers.read


def counted(raw: redis.Redis) -> dict[str, int]:
    """How often what followers may use was called, by clients and by scripts."""
    stats: dict[str, dict[str, int]] = raw.info("commandstats")
    commands = ("evalsha", "hmget", "getrange", "publish")
    return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in commands}


async def looks_cost(queue: Queue, raw: redis.Redis, readers: list[Reader]) -> dict[str, int]:
    """What five looks at all who are followed, as when messages may have been lost, and two pings to each follower, ask of Redis."""
    pings = [reader.pings for reader in readers]
    before = counted(raw)
    for number in range(5):
        queue._followers.poll_all()
        await eventually(lambda number=number: counted(raw)["evalsha"] > before["evalsha"] + number)
    await eventually(lambda: all(reader.pings > seen + 1 for reader, seen in zip(readers, pings, strict=True)))
    return {name: calls - before[name] for name, calls in counted(raw).items()}


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, MANY])
async def test_many_followers_cost_one_read_and_nothing_while_nothing_happens(
    queue: Queue,
    worker: HandWorker,
    make: MakeInvocation,
    raw: redis.Redis,
    read: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    jobs: int,
) -> None:
    monkeypatch.setattr(notifications, "POLL_INTERVAL_S", 3600.0)  # only what happens makes anybody look, and the test
    monkeypatch.setattr(events, "PING_S", 0.1)
    watched: list[tuple[str, str]] = []
    worker.queue.on_follow = lambda *who: watched.append(who)
    made = [make() for _ in range(jobs)]
    for job in made:
        await queue.submit(job, reply=False)
    readers = [await read(made[number % jobs].job_id) for number in range(MANY)]
    await eventually(lambda: all(reader.events == ["status"] for reader in readers))

    cost = await looks_cost(queue, raw, readers)
    polls = cost["evalsha"]
    assert cost == {"evalsha": polls, "hmget": polls * jobs, "getrange": 0, "publish": 0}
    assert polls in (5, 6), "a poll that was under way before may be counted too"

    reads = counted(raw)["getrange"]
    claims = (await worker.step(jobs)).claims
    queue._followers.poll_all()
    await eventually(lambda: all(reader.events == ["status"] * 2 for reader in readers))
    # Each reads the job, with the end of its log, and what the attempt has printed.
    await eventually(lambda: counted(raw)["getrange"] == reads + 2 * MANY)
    await eventually(lambda: len(watched) >= jobs and len(watched) % jobs == 0)
    assert {job_id for job_id, _ in watched} == {job.job_id for job in made}, "one asks for all who follow"
    cost = await looks_cost(queue, raw, readers)
    polls = cost["evalsha"]
    assert cost == {"evalsha": polls, "hmget": polls * jobs, "getrange": 0, "publish": polls * jobs}
    assert polls in (5, 6), "a poll that was under way before may be counted too"
    for job in made:
        assert await worker.queue.append_logs(job.job_id, 1, 0, b"line\n", [watched[0][1]]) == 1
    await eventually(lambda: all(reader.events[2:] == ["log"] for reader in readers))
    late = await read(made[0].job_id)
    await eventually(lambda: late.events == ["status", "log"])

    await worker.step(0, *[worker.ending(claim) for claim in claims])
    await eventually(lambda: all(reader.over for reader in readers))
    assert {tuple(reader.events[3:]) for reader in readers} == {("status", "result")}
    await eventually(lambda: late.over)
    assert queue._followers._jobs == {}


@pytest.mark.slow
async def test_a_change_without_a_message_is_seen_at_the_next_read(
    queue: Queue, worker: HandWorker, make: MakeInvocation, read: Callable[[str], Any], raw: redis.Redis
) -> None:
    job, broken = make(), make()
    for each in (job, broken):
        await queue.submit(each, reply=False)
    reader, other = await read(job.job_id), await read(broken.job_id)
    await eventually(lambda: reader.events == other.events == ["status"])
    raw.set(keys.JOB + broken.job_id, "no hash")  # of which nothing can be said, and all of the others
    await worker.step(1)
    await eventually(lambda: reader.events == ["status", "status"])
    await eventually(lambda: other.over)
    assert other.events == ["status", "gone"]
