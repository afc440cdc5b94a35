"""What a caller of POST /v1/functions/{name}/invoke sees for every way a call can go."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from api.app import Api
from sandlot.errors import NoWorker, QueueFull, QueueUnavailable, SandlotError
from sandlot.jobs import JobResult
from sandlot.models import Evidence, Invocation, OutcomeKind
from tests.unit.api.conftest import Ending, FakeQueue, FakeRegistry
from tests.waiting import eventually

HELLO = "/v1/functions/hello/invoke"


async def test_the_answer_is_what_the_function_returned_byte_for_byte(anyone: httpx.AsyncClient) -> None:
    reply = await anyone.post(HELLO, content=b'{"name":  "Ada"}')
    assert (reply.status_code, reply.content) == (200, b'{"name":  "Ada"}')
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-sandlot-outcome"] == "ok"
    assert reply.headers["x-function-version"] == "2"
    assert len(reply.headers["x-job-id"]) == 36
    assert "run;dur=1.250" in reply.headers["server-timing"]
    assert reply.headers["x-request-id"]


async def test_an_empty_body_is_null(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.post(HELLO)).content == b"null"


async def test_a_version_can_be_asked_for(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.post(HELLO + "?version=1")).headers["x-function-version"] == "1"
    missing = await anyone.post(HELLO + "?version=9")
    assert missing.status_code == 401  # a stranger learns nothing, not even which versions there are


async def test_a_request_id_of_the_callers_is_kept_if_it_is_harmless(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.post(HELLO, headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
    assert (await anyone.post(HELLO, headers={"x-request-id": 'no"<>'})).headers["x-request-id"] != 'no"<>'


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (OutcomeKind.ERROR, 502, "function_error"),
        (OutcomeKind.IMPORT_ERROR, 502, "function_error"),
        (OutcomeKind.EXIT, 502, "function_error"),
        (OutcomeKind.TIMEOUT, 504, "function_timeout"),
        (OutcomeKind.MEMORY, 502, "function_killed"),
        (OutcomeKind.CPU, 502, "function_killed"),
        (OutcomeKind.PROCESSES, 502, "function_killed"),
        (OutcomeKind.OUTPUT, 502, "function_killed"),
        (OutcomeKind.SIGNAL, 502, "function_killed"),
        (OutcomeKind.BAD_RESULT, 502, "bad_result"),
        (OutcomeKind.CANCELLED, 409, "job_cancelled"),
        (OutcomeKind.EXPIRED, 503, "job_expired"),
        (OutcomeKind.WORKER_LOST, 502, "worker_lost"),
    ],
)
async def test_an_end_that_is_not_a_value_is_a_problem_that_names_the_job(
    anyone: httpx.AsyncClient,
    queue: FakeQueue,
    end_as: Callable[..., Ending],
    kind: OutcomeKind,
    status: int,
    code: str,
) -> None:
    queue.ending = end_as(kind, evidence=Evidence(limit={"wall_s": 5}))
    reply = await anyone.post(HELLO)
    document = reply.json()
    assert (reply.status_code, document["code"], document["status"]) == (status, code, status)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-sandlot-outcome"] == document["outcome"] == kind
    assert document["job"]["id"] == reply.headers["x-job-id"]
    assert document["evidence"]["limit"] == {"wall_s": 5}
    assert "wall_s=5" in document["detail"]


async def test_a_raised_error_is_passed_on(anyone: httpx.AsyncClient, queue: FakeQueue, raised: Ending) -> None:
    queue.ending = raised
    document = (await anyone.post(HELLO)).json()
    assert document["error"] == {"errorType": "ValueError", "errorMessage": "no name", "stackTrace": ["line 3"]}
    assert document["detail"] == "ValueError: no name"


@pytest.mark.parametrize("event", [b"{", b"NaN", b'"\\ud800"', b"[" * 201 + b"]" * 201, b"\xff", b"1e999"])
async def test_an_event_that_is_not_json_is_refused_before_it_is_queued(
    anyone: httpx.AsyncClient, queue: FakeQueue, event: bytes
) -> None:
    reply = await anyone.post(HELLO, content=event)
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_json")
    assert not queue.invocations


async def test_a_large_body_is_refused_by_its_declared_length(anyone: httpx.AsyncClient, queue: FakeQueue) -> None:
    reply = await anyone.post(HELLO, content=b'"' + b"a" * 2047 + b'"')
    assert (reply.status_code, reply.json()["code"], reply.json()["limit_bytes"]) == (413, "payload_too_large", 2048)
    assert not queue.invocations


async def test_a_large_body_is_refused_by_counting(anyone: httpx.AsyncClient, queue: FakeQueue) -> None:
    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 100

    reply = await anyone.post(HELLO, content=chunks())
    assert (reply.status_code, reply.json()["code"]) == (413, "payload_too_large")
    assert not queue.invocations


async def test_a_body_at_the_limit_is_accepted(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.post(HELLO, content=b'"' + b"a" * 2046 + b'"')).status_code == 200


@pytest.mark.parametrize(
    ("refusal", "status", "retry_after"),
    [
        (QueueFull("full", retry_after_s=2.1, depth=5), 429, "3"),
        (QueueUnavailable("no Redis"), 503, "1"),
        (NoWorker("no worker", retry_after_s=5), 503, "5"),
    ],
)
async def test_a_refused_submit_carries_retry_after(
    anyone: httpx.AsyncClient, queue: FakeQueue, refusal: SandlotError, status: int, retry_after: str
) -> None:
    queue.refusal = refusal
    reply = await anyone.post(HELLO)
    assert (reply.status_code, reply.json()["code"], reply.headers["retry-after"]) == (
        status,
        refusal.code,
        retry_after,
    )


@pytest.mark.parametrize(("headers", "query"), [({"prefer": "respond-async"}, ""), ({}, "?async=true")])
async def test_an_asynchronous_call_is_answered_at_once_with_the_place_of_its_job(
    anyone: httpx.AsyncClient, queue: FakeQueue, hold: Ending, headers: dict[str, str], query: str
) -> None:
    queue.ending = hold
    reply = await anyone.post(HELLO + query, headers=headers)
    job_id = reply.headers["x-job-id"]
    assert reply.status_code == 202
    assert reply.headers["location"] == f"/v1/jobs/{job_id}"
    assert reply.headers["preference-applied"] == "respond-async"
    assert reply.headers["retry-after"] == "1"
    assert reply.json()["status"] == "queued"
    assert reply.json()["id"] == job_id


async def test_a_wait_that_is_over_is_not_the_end_of_the_job(
    anyone: httpx.AsyncClient, queue: FakeQueue, hold: Ending
) -> None:
    queue.ending = hold
    reply = await anyone.post(HELLO, headers={"prefer": "wait=0.01"})
    document = reply.json()
    assert (reply.status_code, document["code"]) == (504, "wait_timeout")
    assert reply.headers["location"] == document["job"]["links"]["self"]
    assert not queue.cancelled
    assert queue.kept == [document["job"]["id"]]


async def test_respond_async_with_a_wait_is_202_when_the_wait_is_over(
    anyone: httpx.AsyncClient, queue: FakeQueue, hold: Ending
) -> None:
    queue.ending = hold
    reply = await anyone.post(HELLO, headers={"prefer": "respond-async, wait=0.01"})
    assert reply.status_code == 202
    assert reply.headers["preference-applied"] == "respond-async, wait=0.01"


async def test_respond_async_with_a_wait_is_200_when_the_function_is_quicker(anyone: httpx.AsyncClient) -> None:
    reply = await anyone.post(HELLO, headers={"prefer": "respond-async, wait=5"})
    assert (reply.status_code, reply.headers["preference-applied"]) == (200, "respond-async, wait=5")


async def test_strict_handling_refuses_what_cannot_be_honoured(anyone: httpx.AsyncClient, queue: FakeQueue) -> None:
    reply = await anyone.post(HELLO, headers={"prefer": "wait=21, handling=strict"})
    assert (reply.status_code, reply.json()["code"], reply.json()["limit_s"]) == (400, "invalid_preference", 20)
    lenient = await anyone.post(HELLO, headers={"prefer": "wait=21"})
    assert (lenient.status_code, lenient.headers["preference-applied"]) == (200, "wait=20")


async def test_the_same_idempotency_key_is_the_same_job(anyone: httpx.AsyncClient, queue: FakeQueue) -> None:
    first = await anyone.post(HELLO, content=b"1", headers={"idempotency-key": '"k1"'})
    again = await anyone.post(HELLO, content=b"1", headers={"idempotency-key": "k1"})
    other = await anyone.post(HELLO, content=b"2", headers={"idempotency-key": "k1"})
    assert again.status_code == 200
    assert again.headers["x-job-id"] == first.headers["x-job-id"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")
    assert len(queue.invocations) == 1


async def test_a_repeated_call_waits_for_the_job_that_runs(
    api: Api, anyone: httpx.AsyncClient, queue: FakeQueue, hold: Ending, end_of: Callable[..., JobResult]
) -> None:
    queue.ending = hold
    headers = {"idempotency-key": "k"}
    submitted = await anyone.post(HELLO + "?async=true", headers=headers)
    waiting = asyncio.ensure_future(anyone.post(HELLO, headers=headers))
    await eventually(lambda: bool(api.invocations.waiting))
    job_id = submitted.headers["x-job-id"]
    queue.finish(end_of(queue.invocations[job_id], result=b"7"))
    reply = await waiting
    assert (reply.content, reply.headers["x-job-id"]) == (b"7", job_id)


async def test_call_options_in_headers_reach_the_queue(anyone: httpx.AsyncClient, queue: FakeQueue) -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"x-sandlot-delay": "2s", "x-sandlot-expires": "1m", "traceparent": traceparent}
    await anyone.post(HELLO, headers=headers)
    invocation: Invocation = next(iter(queue.invocations.values()))
    assert (invocation.delay_ms, invocation.traceparent) == (2000, traceparent)
    assert invocation.not_after_ms > 1_700_000_000_000


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x-sandlot-delay": "soon"}, ""),
        ({"x-sandlot-expires": "-1s"}, ""),
        ({"x-sandlot-on-disconnect": "explode"}, ""),
        ({"idempotency-key": "x" * 256}, ""),
        ({"idempotency-key": '""'}, ""),
        ({}, "?wait=long"),
        ({}, "?async=maybe"),
        ({}, "?waitt=5"),
        ({}, "?wait=1&wait=2"),
    ],
)
async def test_options_without_meaning_are_refused(
    anyone: httpx.AsyncClient, queue: FakeQueue, headers: dict[str, str], query: str
) -> None:
    reply = await anyone.post(HELLO + query, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
    assert not queue.invocations


async def test_the_callback_url_is_checked_before_anything_is_queued(
    anyone: httpx.AsyncClient, queue: FakeQueue
) -> None:
    asynchronous = {"prefer": "respond-async"}
    for headers, reason in (
        ({"x-callback-url": "https://hooks.example.com/"}, "only for calls that do not wait"),
        (asynchronous | {"x-callback-url": "https://evil.example.com/"}, "operator allows: hooks.example.com"),
        (asynchronous | {"x-callback-url": "https://hooks.example.com/#x"}, "fragment"),
    ):
        reply = await anyone.post(HELLO, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (400, "callback_refused")
        assert reason in reply.json()["detail"]
    assert not queue.invocations
    url = "https://hooks.example.com/done"
    assert (await anyone.post(HELLO, headers=asynchronous | {"x-callback-url": url})).status_code == 202
    assert [each.callback_url for each in queue.invocations.values()] == [url]


async def test_a_stopping_server_answers_waiting_callers_with_the_jobs_address(
    api: Api, anyone: httpx.AsyncClient, queue: FakeQueue, hold: Ending
) -> None:
    queue.ending = hold
    waiting = asyncio.ensure_future(anyone.post(HELLO))
    await eventually(lambda: bool(api.invocations.waiting))
    api.invocations.release()
    reply = await waiting
    assert (reply.status_code, reply.json()["code"]) == (503, "shutting_down")
    assert reply.headers["location"] == reply.json()["job"]["links"]["self"]
    assert (await anyone.post(HELLO, headers={"prefer": "respond-async, wait=9"})).status_code == 202


async def test_hanging_up_cancels_the_job_if_the_call_asked_for_it(api: Api, queue: FakeQueue, hold: Ending) -> None:
    queue.ending = hold
    sent = await hang_up(api, queue, [(b"x-sandlot-on-disconnect", b"cancel")])
    assert not sent
    assert len(queue.cancelled) == 1


@pytest.mark.parametrize(
    ("on_disconnect", "headers", "cancelled"),
    [("cancel", [], 1), ("cancel", [(b"x-sandlot-on-disconnect", b"detach")], 0), ("detach", [], 0)],
)
async def test_the_call_decides_about_hanging_up_and_otherwise_the_manifest(
    api: Api,
    queue: FakeQueue,
    hold: Ending,
    end_of: Callable[..., JobResult],
    registry: FakeRegistry,
    on_disconnect: str,
    headers: dict[str, str],
    cancelled: int,
) -> None:
    registry.add("hello", visibility="public", on_disconnect=on_disconnect)
    queue.ending = hold
    calling = asyncio.ensure_future(hang_up(api, queue, headers))
    await eventually(lambda: bool(queue.invocations))
    (invocation,) = queue.invocations.values()
    assert invocation.cancel_on_disconnect is bool(cancelled)
    if not cancelled:
        queue.finish(end_of(invocation, result=b"1"))
    await calling
    assert len(queue.cancelled) == cancelled


async def hang_up(api: Api, queue: FakeQueue, headers: list[tuple[bytes, bytes]]) -> list[Any]:
    """Call, and disconnect once the job is queued; returns what was sent."""
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    await messages.put({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": HELLO,
        "headers": headers,
        "query_string": b"",
        "http_version": "1.1",
    }
    call = asyncio.ensure_future(api.asgi(scope, messages.get, send))
    await eventually(lambda: bool(api.invocations.waiting))
    await messages.put({"type": "http.disconnect"})
    await call
    return sent


async def test_a_platform_bug_is_a_500_with_a_request_id_and_no_secrets(
    anyone: httpx.AsyncClient, queue: FakeQueue
) -> None:
    def explode(invocation: Invocation) -> None:
        raise RuntimeError("password=hunter2")

    queue.ending = explode
    reply = await anyone.post(HELLO)
    assert (reply.status_code, reply.json()["code"]) == (500, "internal_error")
    assert reply.json()["request_id"] == reply.headers["x-request-id"]
    assert "hunter2" not in json.dumps(reply.json())
