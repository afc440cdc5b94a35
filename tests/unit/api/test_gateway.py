"""A function behind a URL: the request as its event, its answer as the response, and nothing that could break the connection."""

import json
from collections.abc import Callable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.routes.gateway import DROPPED_HEADERS, BadFunctionResponse, response_from_result
from sandlot.jobs import JobResult
from sandlot.models import OutcomeKind
from tests.unit.api.conftest import Ending, FakeQueue


async def test_the_event_is_the_request_in_lambdas_words(anyone: httpx.AsyncClient) -> None:
    headers = {"cookie": "a=1; b=2", "user-agent": "test", "x-twice": "1"}
    reply = await anyone.post("/fn/hello/orders/7?x=1&x=2&y=%C3%A4", content="grüße".encode(), headers=headers)
    event = reply.json()
    assert event["version"] == "2.0"
    assert event["rawPath"] == "/orders/7"
    assert event["rawQueryString"] == "x=1&x=2&y=%C3%A4"
    assert event["queryStringParameters"] == {"x": "1,2", "y": "ä"}
    assert event["cookies"] == ["a=1", "b=2"]
    assert event["headers"]["host"] == "sandlot.test"
    assert "cookie" not in event["headers"]
    assert (event["body"], event["isBase64Encoded"]) == ("grüße", False)
    context = event["requestContext"]
    assert context["http"]["method"] == "POST"
    assert context["http"]["userAgent"] == "test"
    assert context["requestId"] == reply.headers["x-job-id"]
    assert context["timeEpoch"] > 1_700_000_000_000


async def test_a_body_that_is_not_text_comes_as_base64(anyone: httpx.AsyncClient) -> None:
    event = (await anyone.post("/fn/hello", content=b"\xff\x00")).json()
    assert (event["body"], event["isBase64Encoded"]) == ("/wA=", True)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/fn/hello", "/fn/hello/", "/fn/hello/a/b", "/hello"])
async def test_every_method_reaches_the_function(
    anyone: httpx.AsyncClient, queue: FakeQueue, method: str, path: str
) -> None:
    reply = await anyone.request(method, path)
    assert reply.status_code == 200
    event = json.loads(next(iter(queue.invocations.values())).event)
    assert event["requestContext"]["http"]["method"] == method


async def test_the_answer_in_response_form_is_the_response(
    anyone: httpx.AsyncClient, queue: FakeQueue, end_of: Callable[..., JobResult]
) -> None:
    answer = {
        "statusCode": 201,
        "headers": {"X-Mine": "yes", "Content-Type": "text/html"},
        "cookies": ["a=1", "b=2"],
        "body": "<p>",
    }
    queue.ending = lambda invocation: end_of(invocation, result=json.dumps(answer).encode())
    reply = await anyone.get("/hello")
    assert (reply.status_code, reply.text, reply.headers["x-mine"]) == (201, "<p>", "yes")
    assert reply.headers["content-type"] == "text/html"
    assert reply.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert reply.headers["x-sandlot-outcome"] == "ok"
    assert reply.headers["x-job-id"]


async def test_any_other_json_is_the_body_as_it_is(
    anyone: httpx.AsyncClient, queue: FakeQueue, end_of: Callable[..., JobResult]
) -> None:
    queue.ending = lambda invocation: end_of(invocation, result=b'{"message":  "hi"}')
    reply = await anyone.get("/hello")
    assert (reply.status_code, reply.content, reply.headers["content-type"]) == (
        200,
        b'{"message":  "hi"}',
        "application/json",
    )


async def test_a_function_that_fails_is_a_problem(
    anyone: httpx.AsyncClient, queue: FakeQueue, end_as: Callable[..., Ending]
) -> None:
    queue.ending = end_as(OutcomeKind.TIMEOUT)
    reply = await anyone.get("/fn/hello")
    assert (reply.status_code, reply.json()["code"]) == (504, "function_timeout")


async def test_a_call_through_the_gateway_may_be_asynchronous(
    anyone: httpx.AsyncClient, queue: FakeQueue, hold: Ending
) -> None:
    queue.ending = hold
    reply = await anyone.post("/fn/hello", headers={"prefer": "respond-async"})
    assert (reply.status_code, reply.headers["location"]) == (202, f"/v1/jobs/{reply.headers['x-job-id']}")


async def test_the_query_belongs_to_the_function(anyone: httpx.AsyncClient) -> None:
    reply = await anyone.get("/hello?async=true&wait=nonsense")
    assert reply.json()["queryStringParameters"] == {"async": "true", "wait": "nonsense"}


@pytest.mark.parametrize(
    "path",
    ["/", "/no.such", "/UPPER", "/favicon.ico", "/a/b", "/v1", "/v1/nothing", "/" + "a" * 64, "/-x", "/%00", "/fn"],
)
async def test_a_path_that_cannot_name_a_function_is_404(anyone: httpx.AsyncClient, path: str) -> None:
    reply = await anyone.get(path)
    expected = (401, "unauthenticated") if path in ("/v1", "/fn") else (404, "not_found")
    assert (reply.status_code, reply.json()["code"]) == expected


@pytest.mark.parametrize(
    "answer",
    [
        {"statusCode": 99},
        {"statusCode": 101},
        {"statusCode": 600},
        {"statusCode": "abc"},
        {"statusCode": True},
        {"statusCode": None},
        {"statusCode": 204, "body": "x"},
        {"statusCode": 200, "headers": ["a"]},
        {"statusCode": 200, "headers": {"a b": "1"}},
        {"statusCode": 200, "headers": {"a": "1\r\nset-cookie: x=1"}},
        {"statusCode": 200, "headers": {"a\r\nb": "1"}},
        {"statusCode": 200, "headers": {"a": "snow \u2603"}},
        {"statusCode": 200, "headers": {"": "1"}},
        {"statusCode": 200, "headers": {"a": {"b": 1}}},
        {"statusCode": 200, "headers": {"a": "x" * 40_000}},
        {"statusCode": 200, "cookies": "a=1"},
        {"statusCode": 200, "cookies": ["a=1\n"]},
        {"statusCode": 200, "body": "no!", "isBase64Encoded": True},
    ],
)
async def test_a_response_that_cannot_be_sent_is_the_functions_fault(
    anyone: httpx.AsyncClient, queue: FakeQueue, end_of: Callable[..., JobResult], answer: object
) -> None:
    queue.ending = lambda invocation: end_of(invocation, result=json.dumps(answer).encode())
    reply = await anyone.get("/hello")
    assert (reply.status_code, reply.json()["code"]) == (502, "bad_function_response")
    assert reply.json()["job"]["id"] == reply.headers["x-job-id"]


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Connection", "Upgrade", "X-Job-Id", "Server"])
def test_headers_that_are_not_the_functions_to_send_are_dropped(name: str) -> None:
    _, headers, body = response_from_result(
        json.dumps({"statusCode": 200, "headers": {name: "1"}, "body": "all of it"}).encode()
    )
    assert name.lower().encode() not in dict(headers)
    assert body == b"all of it"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.slow
@given(
    st.fixed_dictionaries(
        {"statusCode": json_values | st.integers(100, 700)},
        optional={
            "headers": json_values
            | st.dictionaries(st.text() | st.sampled_from(["content-length", "a"]), st.text() | json_values),
            "body": json_values,
            "cookies": json_values | st.lists(st.text()),
            "isBase64Encoded": json_values,
        },
    )
)
def test_every_answer_of_a_function_is_sendable_or_refused(answer: object) -> None:
    try:
        status, headers, _ = response_from_result(json.dumps(answer).encode())
    except BadFunctionResponse:
        return
    assert 200 <= status <= 599
    for name, value in headers:
        assert name.decode() not in DROPPED_HEADERS
        assert name
        assert not set(name) & set(b"\r\n\0 :")
        assert not set(value) & set(b"\r\n\0")
