"""The client turns replies into values and problem documents back into the exceptions they were."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sandlot.client import Client
from sandlot.errors import ApiUnreachable, FunctionNotFound, NoResult, QueueFull, SandlotError, WaitTimeout
from sandlot.models import OutcomeKind

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer) -> Client:
    return Client("http://sandlot.test/", "sk_key", transport=httpx.MockTransport(answer))


def problem(status: int, code: str, headers: dict[str, str] | None = None, **members: Any) -> Answer:
    document = {"type": "x", "title": "t", "status": status, "detail": "what happened", "code": code} | members
    return lambda request: httpx.Response(status, json=document, headers=headers)


CALL = {
    "x-sandlot-outcome": "ok",
    "x-job-id": "j",
    "x-function-version": "3",
    "server-timing": "run;dur=1.5, total;dur=2",
}


def test_a_value_comes_back_as_it_was_sent() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer sk_key"
        assert request.headers["prefer"] == "wait=2"
        assert str(request.url) == "http://sandlot.test/v1/functions/hello/invoke?version=3"
        return httpx.Response(200, content=request.content, headers=CALL)

    with client(answer) as api:
        result = api.invoke("hello", {"a": [1]}, version="3", wait_s=2)
    assert result.ok
    assert (result.value, result.json(), result.job_id, result.version) == (b'{"a":[1]}', {"a": [1]}, "j", "3")
    assert result.timings == {"run": 1.5, "total": 2.0}


def test_bytes_are_sent_as_they_are() -> None:
    with client(lambda request: httpx.Response(200, content=request.content, headers=CALL)) as api:
        assert api.invoke("hello", b"[1,  2]").value == b"[1,  2]"


def test_a_functions_failure_is_a_value() -> None:
    failed = problem(502, "function_error", CALL | {"x-sandlot-outcome": "error"}, error={"errorType": "ValueError"})
    with client(failed) as api:
        result = api.invoke("hello")
    assert (result.outcome, result.ok, result.value) == (OutcomeKind.ERROR, False, b"")
    assert result.problem["error"] == {"errorType": "ValueError"}


def test_a_refusal_is_the_exception_it_was() -> None:
    with client(problem(404, "function_not_found")) as api, pytest.raises(FunctionNotFound, match="what happened"):
        api.invoke("nope")
    with client(problem(429, "queue_full", {"retry-after": "7"})) as api, pytest.raises(QueueFull) as full:
        api.submit("hello")
    assert full.value.retry_after_s == 7
    with client(problem(504, "wait_timeout", job={"id": "j"})) as api, pytest.raises(WaitTimeout) as wait:
        api.invoke("hello")
    assert wait.value.fields["job"] == {"id": "j"}
    with client(problem(409, "no_result")) as api, pytest.raises(NoResult):
        api.result("j")


def test_a_code_of_a_later_release_is_an_error_with_that_code() -> None:
    with client(problem(418, "teapot")) as api, pytest.raises(SandlotError) as caught:
        api.job("j")
    assert caught.value.code == "teapot"


def test_something_that_is_not_sandlot_is_named() -> None:
    with (
        client(lambda request: httpx.Response(502, text="<html>")) as api,
        pytest.raises(SandlotError, match="is it a Sandlot API"),
    ):
        api.functions()


def test_an_unreachable_url_is_one_clear_line() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    with (
        client(refuse) as api,
        pytest.raises(ApiUnreachable, match=r"cannot reach http://sandlot\.test: Connection refused"),
    ):
        api.status()


def test_a_result_that_does_not_exist_yet_is_none() -> None:
    with client(lambda request: httpx.Response(202, json={})) as api:
        assert api.result("j") is None


def test_waiting_polls_until_the_job_is_over() -> None:
    states = iter(["queued", "running", "failed"])
    with client(lambda request: httpx.Response(200, json={"status": next(states)})) as api:
        assert api.wait("j") == {"status": "failed"}


def test_pages_of_functions_are_read_to_the_end() -> None:
    pages = {"": {"functions": [{"name": "a"}], "next": "a"}, "a": {"functions": [{"name": "b"}], "next": None}}
    with client(lambda request: httpx.Response(200, json=pages[request.url.params.get("cursor", "")])) as api:
        assert [function["name"] for function in api.functions()] == ["a", "b"]


def test_names_cannot_leave_their_place_in_the_path() -> None:
    with client(lambda request: httpx.Response(200, json={"path": request.url.raw_path.decode()})) as api:
        assert api.function("../admin?x=1") == {"path": "/v1/functions/..%2Fadmin%3Fx%3D1"}
