"""Calls over real HTTP, a real queue and real sandboxes: every reply that an invoke can have."""

import json
import threading
from typing import Any

import httpx
import pytest


def invoke(client: httpx.Client, name: str, event: Any = None, query: str = "", **headers: str) -> httpx.Response:
    content = event if isinstance(event, bytes) else json.dumps(event).encode()
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.post(f"/v1/functions/{name}/invoke{query}", content=content, headers=named)


@pytest.mark.slow
@pytest.mark.parametrize(
    "event",
    [
        b"null",
        b"1.50",
        b'"gr\xc3\xbc\xc3\x9fe"',
        b"[]",
        b'{"a": [1, {"b": null}]}',
        b"[" * 150 + b"]" * 150,
        b'"\\ud83d\\ude00"',
    ],
)
def test_any_json_is_echoed_unchanged(anyone: httpx.Client, event: bytes) -> None:
    reply = invoke(anyone, "echo", event)
    assert (reply.status_code, reply.json()) == (200, json.loads(event))
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-sandlot-outcome"] == "ok"
    assert reply.headers["x-function-version"] == "1"
    assert reply.headers["x-request-id"]
    assert "total;dur=" in reply.headers["server-timing"]


def test_an_empty_body_is_null(anyone: httpx.Client) -> None:
    assert invoke(anyone, "echo", b"").json() is None


def test_node_functions_are_called_the_same_way(anyone: httpx.Client) -> None:
    assert invoke(anyone, "greet", {"name": "Ada"}).json() == {"message": "Hello, Ada!"}


def test_the_function_sees_the_job_id_that_the_caller_gets(anyone: httpx.Client) -> None:
    reply = invoke(anyone, "context")
    assert reply.json()["job"] == reply.headers["x-job-id"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "event", "status", "code", "outcome"),
    [
        ("fails", "luck", 502, "function_error", "error"),
        ("fails-node", "luck", 502, "function_error", "error"),
        ("broken", None, 502, "function_error", "import_error"),
        ("exits", None, 502, "function_error", "exit"),
        ("loops", None, 504, "function_timeout", "timeout"),
        ("promises", None, 504, "function_timeout", "timeout"),
        ("hoards", None, 502, "function_killed", "memory"),
        ("set-result", None, 502, "bad_result", "bad_result"),
        ("nan", None, 502, "bad_result", "bad_result"),
        ("surrogate", None, 502, "bad_result", "bad_result"),
        ("deep", None, 502, "bad_result", "bad_result"),
        ("cycle", None, 502, "bad_result", "bad_result"),
        ("bigint", None, 502, "bad_result", "bad_result"),
    ],
)
def test_a_failing_function_is_a_problem_document_and_the_next_call_works(
    anyone: httpx.Client, name: str, event: object, status: int, code: str, outcome: str
) -> None:
    reply = invoke(anyone, name, event)
    document = reply.json()
    assert (reply.status_code, document["code"], document["outcome"]) == (status, code, outcome), document
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-sandlot-outcome"] == outcome
    assert document["job"]["id"] == reply.headers["x-job-id"]
    job = anyone.get(document["job"]["links"]["self"]).json()
    assert (job["outcome"], job["id"]) == (outcome, document["job"]["id"])
    assert invoke(anyone, "echo", 1).json() == 1


def test_an_exception_is_reported_with_the_functions_own_frames_only(anyone: httpx.Client) -> None:
    error = invoke(anyone, "fails", "luck").json()["error"]
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "no luck")
    assert any("fails.py" in frame for frame in error["stackTrace"])
    assert not any("runner" in frame for frame in error["stackTrace"])


def test_a_function_may_return_null(anyone: httpx.Client) -> None:
    assert invoke(anyone, "undefined").json() is None


def test_an_unknown_function_is_404_with_a_key_and_401_without(admin: httpx.Client, anyone: httpx.Client) -> None:
    assert (invoke(admin, "nope").status_code, invoke(admin, "nope").json()["code"]) == (404, "function_not_found")
    assert invoke(admin, "echo", query="?version=77").json()["code"] == "version_not_found"
    assert (invoke(anyone, "nope").status_code, invoke(anyone, "private").status_code) == (401, 401)
    assert invoke(anyone, "nope").json()["detail"] == invoke(anyone, "private").json()["detail"]
    assert invoke(admin, "private").json() == "secret"


@pytest.mark.parametrize("name", ["No", "a_b", "-a", "a" * 64, "..", "%00", "%E2%82%AC", "a%2Fb"])
def test_an_invalid_name_is_an_unknown_function(admin: httpx.Client, name: str) -> None:
    reply = invoke(admin, name)
    assert (reply.status_code, reply.json()["status"]) == (404, 404)


@pytest.mark.parametrize(
    "event",
    [
        b"{",
        b"{'a': 1}",
        b"NaN",
        b"[Infinity]",
        b'"\\ud800"',
        b"\xff\xfe",
        b"1 2",
        b"[" * 201 + b"]" * 201,
        b"[" * 100_000,
        b"1e999",
        b"9" * 5000,
    ],
)
def test_an_event_that_is_not_json_is_400(anyone: httpx.Client, event: bytes) -> None:
    reply = invoke(anyone, "echo", event)
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_json")


def test_a_body_over_the_limit_is_413_whatever_its_headers_claim(anyone: httpx.Client) -> None:
    body = b'"' + b"x" * (6 * 1024 * 1024) + b'"'
    declared = invoke(anyone, "echo", body)
    assert (declared.status_code, declared.json()["code"]) == (413, "payload_too_large")

    def chunks() -> Any:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    counted = anyone.post("/v1/functions/echo/invoke", content=chunks())
    assert (counted.status_code, counted.json()["limit_bytes"]) == (413, 6 * 1024 * 1024)


def test_a_body_at_the_limit_is_accepted_and_returned(anyone: httpx.Client) -> None:
    body = b'"' + b"x" * (6 * 1024 * 1024 - 2) + b'"'
    reply = invoke(anyone, "echo", body)
    assert (reply.status_code, len(reply.content)) == (200, len(body)), reply.text[:500]


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_another_method_is_405_with_an_allow_header(anyone: httpx.Client, method: str) -> None:
    reply = anyone.request(method, "/v1/functions/echo/invoke")
    assert (reply.status_code, reply.json()["code"], reply.headers["allow"]) == (405, "method_not_allowed", "POST")


def test_output_goes_to_the_log_and_never_into_the_result(anyone: httpx.Client) -> None:
    reply = invoke(anyone, "speaks")
    assert reply.json() == "value"
    logs = anyone.get(f"/v1/jobs/{reply.headers['x-job-id']}/logs")
    assert logs.headers["content-type"].startswith("text/plain")
    assert "out\n" in logs.text
    assert '{"statusCode": 500}' in logs.text


def test_megabytes_of_output_are_cut_with_a_marker(anyone: httpx.Client) -> None:
    reply = invoke(anyone, "prints", 5000)
    assert reply.status_code in (200, 502), reply.text
    logs = anyone.get(f"/v1/jobs/{reply.headers['x-job-id']}/logs").text
    assert 1000 < len(logs) < 300_000


def test_an_asynchronous_call_is_accepted_and_can_be_polled_to_its_end(anyone: httpx.Client) -> None:
    accepted = invoke(anyone, "sleeps", 0.2, prefer="respond-async")
    assert accepted.status_code == 202
    assert accepted.headers["preference-applied"] == "respond-async"
    assert accepted.headers["retry-after"]
    location = accepted.headers["location"]
    assert accepted.json()["links"]["self"] == location
    unfinished = anyone.get(location + "/result")
    assert (unfinished.status_code, unfinished.headers["retry-after"]) == (202, "1")
    job = anyone.get(location, headers={"prefer": "wait=10"}).json()
    assert (job["status"], job["outcome"], job["result"], job["attempt"]) == ("succeeded", "ok", 0.2, 1)
    assert job["created_at"].endswith("Z")
    assert job["timings"]["run"] >= 190
    assert anyone.get(location + "/result").content == b"0.2"


@pytest.mark.slow
def test_a_wait_shorter_than_the_job_is_504_and_the_job_continues(anyone: httpx.Client) -> None:
    reply = invoke(anyone, "sleeps", 0.6, query="?wait=0.1")
    assert (reply.status_code, reply.json()["code"]) == (504, "wait_timeout")
    assert anyone.get(reply.headers["location"] + "?wait=10").json()["status"] == "succeeded"


def test_an_asynchronous_call_with_a_wait_returns_the_result_or_202(anyone: httpx.Client) -> None:
    quick = invoke(anyone, "sleeps", 0, prefer="respond-async, wait=10")
    slow = invoke(anyone, "sleeps", 0.6, prefer="respond-async, wait=0.1")
    assert (quick.status_code, quick.content) == (200, b"0")
    assert (slow.status_code, slow.headers["preference-applied"]) == (202, "respond-async, wait=0.1")


def test_strict_handling_refuses_a_wait_beyond_the_cap(anyone: httpx.Client) -> None:
    assert invoke(anyone, "echo", prefer="wait=100000, handling=strict").json()["code"] == "invalid_preference"


@pytest.mark.slow
def test_one_idempotency_key_is_one_job_however_often_it_is_sent(anyone: httpx.Client) -> None:
    replies: list[httpx.Response] = []

    def call() -> None:
        replies.append(invoke(anyone, "sleeps", 0.3, idempotency_key="once"))

    threads = [threading.Thread(target=call) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 100
    assert {(reply.status_code, reply.content) for reply in replies} == {(200, b"0.3")}
    assert len({reply.headers["x-job-id"] for reply in replies}) == 1
    conflict = invoke(anyone, "sleeps", 0.4, idempotency_key="once")
    assert (conflict.status_code, conflict.json()["code"]) == (422, "idempotency_conflict")


@pytest.mark.slow
def test_a_delayed_call_is_scheduled_and_then_run(anyone: httpx.Client) -> None:
    accepted = invoke(anyone, "echo", 1, prefer="respond-async", x_sandlot_delay="300ms")
    assert accepted.json()["status"] == "scheduled"
    job = anyone.get(accepted.headers["location"] + "?wait=10").json()
    assert (job["status"], job["timings"]["total"] >= 0) == ("succeeded", True)


def test_concurrent_calls_each_get_their_own_result(anyone: httpx.Client) -> None:
    answers: dict[int, Any] = {}

    def call(number: int) -> None:
        answers[number] = invoke(anyone, "echo", {"n": number}).json()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: {"n": number} for number in range(40)}
