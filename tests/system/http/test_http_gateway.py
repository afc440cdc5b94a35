"""Functions behind URLs, over real HTTP: what a browser or a webhook would see."""

import json

import httpx
import pytest


def answer_with(client: httpx.Client, response: httpx.Response, path: str = "/fn/responds") -> httpx.Response:
    """Have the function answer with this, whatever it is."""
    return client.post(path, content=json.dumps(response).encode())


def test_the_short_and_the_long_url_reach_the_same_function(anyone: httpx.Client) -> None:
    for path in ("/fn/echo", "/echo"):
        event = anyone.get(path + "?a=1&a=2").json()
        assert (event["rawPath"], event["queryStringParameters"]) == ("/", {"a": "1,2"})
    assert anyone.get("/fn/echo/a/b%20c").json()["rawPath"] == "/a/b c"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_reaches_the_function(anyone: httpx.Client, method: str) -> None:
    assert anyone.request(method, "/fn/echo").json()["requestContext"]["http"]["method"] == method


def test_head_returns_headers_and_no_body(anyone: httpx.Client) -> None:
    reply = anyone.head("/echo")
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["x-job-id"]


def test_the_functions_response_is_the_response(anyone: httpx.Client) -> None:
    response = {
        "statusCode": 418,
        "headers": {"content-type": "text/html", "x-mine": "1"},
        "cookies": ["a=1", "b=2"],
        "body": "<p>tea",
    }
    reply = answer_with(anyone, response)
    assert (reply.status_code, reply.text, reply.headers["x-mine"]) == (418, "<p>tea", "1")
    assert reply.headers.get_list("set-cookie") == ["a=1", "b=2"]


def test_a_binary_body_goes_both_ways(anyone: httpx.Client) -> None:
    event = anyone.post("/fn/echo", content=b"\xff\x00\xfe").json()
    assert event["isBase64Encoded"]
    reply = answer_with(anyone, {"statusCode": 200, "body": event["body"], "isBase64Encoded": True})
    assert reply.content == b"\xff\x00\xfe"


@pytest.mark.parametrize(
    "response",
    [
        {"statusCode": 1000},
        {"statusCode": 204, "body": "x"},
        {"statusCode": 200, "headers": {"a": "1\r\nset-cookie: evil=1"}},
        {"statusCode": 200, "headers": {"a\nb": "1"}},
        {"statusCode": 200, "headers": {"a": "\u2603"}},
        {"statusCode": 200, "body": "***", "isBase64Encoded": True},
    ],
)
def test_an_invalid_response_is_502_and_the_connection_stays_open(
    anyone: httpx.Client, response: httpx.Response
) -> None:
    reply = answer_with(anyone, response)
    assert (reply.status_code, reply.json()["code"]) == (502, "bad_function_response")
    assert "evil" not in str(reply.headers)
    assert anyone.get("/echo").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"content-length": "1"}, {"transfer-encoding": "chunked"}, {"connection": "close"}, {"Content-Length": "99999"}],
)
def test_a_function_cannot_set_framing_headers(anyone: httpx.Client, headers: dict[str, str]) -> None:
    reply = answer_with(anyone, {"statusCode": 200, "headers": headers, "body": "the whole body"})
    assert reply.text == "the whole body"
    assert "transfer-encoding" not in reply.headers


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_a_body_leaves_the_connection_usable(anyone: httpx.Client, status: int) -> None:
    assert answer_with(anyone, {"statusCode": status}).status_code == status
    assert anyone.get("/echo").status_code == 200


@pytest.mark.slow
def test_a_failing_function_is_a_problem_document(anyone: httpx.Client) -> None:
    assert anyone.get("/fn/fails").json()["code"] == "function_error"
    assert anyone.get("/loops").json()["code"] == "function_timeout"


def test_a_private_function_is_404_without_a_key(anyone: httpx.Client, admin: httpx.Client) -> None:
    assert anyone.get("/private").status_code == anyone.get("/nope").status_code == 401
    assert admin.get("/private").json() == "secret"
    assert admin.get("/nope").json()["code"] == "function_not_found"


def test_the_key_is_not_passed_on(admin: httpx.Client) -> None:
    assert "authorization" not in admin.get("/echo").json()["headers"]


@pytest.mark.parametrize(
    "path", ["/", "/favicon.ico", "/a/b/c", "/robots.txt", "/v1/", "/v1/nothing", "/.git/config", "/%2e%2e/x"]
)
def test_an_unknown_path_is_404(anyone: httpx.Client, path: str) -> None:
    reply = anyone.get(path)
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
