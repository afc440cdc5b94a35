"""What is in Redis is true in RQ's own eyes, and RQ's cleanups leave our jobs alone."""

from __future__ import annotations

import time

import redis
from rq import Queue as RqQueue
from rq.job import Job, JobStatus
from rq.registry import (
    CanceledJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.results import Result
from rq.serializers import JSONSerializer

from sandlot.jobs import Queue
from sandlot.models import FunctionError, OutcomeKind
from tests.jobs.conftest import HandWorker, MakeInvocation

NAME = "hello@python"


def fetch(raw: redis.Redis, job_id: str) -> Job:
    return Job.fetch(job_id, connection=raw, serializer=JSONSerializer)


async def test_a_queued_job(queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis) -> None:
    job = make(b'{"n":1}', wall_limit_ms=1500, result_ttl_s=77)
    before = time.time()
    await queue.submit(job, reply=False)
    seen = fetch(raw, job.job_id)
    assert (seen.get_status(), seen.origin, seen.timeout, seen.result_ttl) == (JobStatus.QUEUED, NAME, 2, 77)
    assert (seen.func_name, seen.args, seen.kwargs) == ("sandlot.jobs.invoke", [{"n": 1}], {})
    assert seen.description == "hello v1"
    assert abs(seen.created_at.timestamp() - before) < 5
    assert abs(seen.enqueued_at.timestamp() - before) < 5
    listed = RqQueue(NAME, connection=raw, serializer=JSONSerializer)
    assert listed.job_ids == [job.job_id]
    assert [one.name for one in RqQueue.all(connection=raw, serializer=JSONSerializer)] == [NAME]


async def test_a_running_job_and_rqs_cleanup(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    registry = StartedJobRegistry(NAME, connection=raw, serializer=JSONSerializer)
    # Even a cleanup in twenty years takes nothing away.
    registry.cleanup(timestamp=time.time() + 20 * 365 * 86400)
    assert registry.get_job_ids() == [job.job_id]
    seen = fetch(raw, job.job_id)
    assert (seen.get_status(), seen.worker_name) == (JobStatus.STARTED, worker.queue.name)
    assert seen.started_at is not None
    await worker.step(1, worker.ending(claim))
    assert registry.get_job_ids() == []


async def test_a_finished_job_and_its_result(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    await worker.step(1, worker.ending(claim, '{"grüße":[1,2,null]}'.encode()))
    seen = fetch(raw, job.job_id)
    result = seen.latest_result()
    assert seen.get_status() is JobStatus.FINISHED
    assert seen.return_value() == {"grüße": [1, 2, None]}
    assert (result.type, result.worker_name, result.execution_id) == (Result.Type.SUCCESSFUL, worker.queue.name, "1")
    assert seen.started_at <= seen.ended_at
    assert abs(result.execution_started_at.timestamp() - seen.started_at.timestamp()) < 0.01
    assert FinishedJobRegistry(NAME, connection=raw).get_job_ids() == [job.job_id]
    assert 0 < raw.ttl(f"rq:job:{job.job_id}") <= 60
    assert 0 < raw.ttl(f"rq:results:{job.job_id}") <= 60


async def test_a_failed_job_and_its_text(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    error = FunctionError(error_type="ValueError", error_message="no", stack_trace=["in handler"])
    await worker.step(1, worker.ending(claim, kind=OutcomeKind.ERROR, error=error))
    seen = fetch(raw, job.job_id)
    assert seen.get_status() is JobStatus.FAILED
    assert seen.latest_result().exc_string == "in handler\nValueError: no"
    assert FailedJobRegistry(NAME, connection=raw).get_job_ids() == [job.job_id]


async def test_a_lost_job_and_its_text(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make(attempts=1)
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    raw.zadd("sandlot:leases", {claim.lease: 1})
    await worker.queue.reap()
    seen = fetch(raw, job.job_id)
    assert seen.get_status() is JobStatus.FAILED
    assert seen.latest_result().exc_string.startswith("worker_lost")


async def test_cancelled_and_scheduled_jobs(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    cancelled, scheduled = make(), make(delay_ms=90_000)
    await queue.submit(cancelled, reply=False)
    await queue.submit(scheduled, reply=False)
    await queue.cancel(cancelled.job_id)
    assert fetch(raw, cancelled.job_id).get_status() is JobStatus.CANCELED
    assert CanceledJobRegistry(NAME, connection=raw).get_job_ids() == [cancelled.job_id]
    assert fetch(raw, scheduled.job_id).get_status() is JobStatus.SCHEDULED
    registry = ScheduledJobRegistry(NAME, connection=raw, serializer=JSONSerializer)
    assert registry.get_job_ids() == [scheduled.job_id]
    assert abs(registry.get_scheduled_time(scheduled.job_id).timestamp() - time.time() - 90) < 5
