"""Jobs over real HTTP: what they show, who may see them, and how they are run again."""

import contextlib
import hashlib
import json
from typing import Any

import httpx
import pytest
import redis

from sandlot.client import Client
from sandlot.errors import FunctionNotFound, InvalidManifest, JobNotFound, NoResult
from sandlot.models import OutcomeKind
from tests.system.http.conftest import Stack
from tests.waiting import HANG_S, until

NEVER = "5b0c8f2e-3c1d-4c43-9a51-6a0c5d6b7e88"


def submit(client: httpx.Client, name: str, event: Any = None, **headers: str) -> httpx.Response:
    return client.post(
        f"/v1/functions/{name}/invoke",
        content=json.dumps(event).encode(),
        headers={"prefer": "respond-async", **headers},
    )


@pytest.mark.parametrize("job_id", [NEVER, "x", "%00", "a" * 64, "..%2F..%2Fetc%2Fpasswd", "*", "%F0%9F%98%80"])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/result"), ("GET", "/logs"), ("DELETE", "")])
def test_an_unknown_job_is_404(admin: httpx.Client, method: str, path: str, job_id: str) -> None:
    reply = admin.request(method, f"/v1/jobs/{job_id}{path}")
    assert (reply.status_code, reply.headers["content-type"]) == (404, "application/problem+json")


def test_a_job_id_of_any_length_gets_a_reply(admin: httpx.Client) -> None:
    assert admin.get("/v1/jobs/" + "a" * 5000).status_code in (400, 404)


def test_a_job_submitted_with_a_key_is_hidden_from_anonymous_callers(admin: httpx.Client, anyone: httpx.Client) -> None:
    location = submit(admin, "private").headers["location"]
    for path in ("", "/result", "/logs"):
        foreign, unknown = anyone.get(location + path), anyone.get(f"/v1/jobs/{NEVER}{path}")
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.json()["code"] == unknown.json()["code"]
    assert anyone.delete(location).status_code == 404
    assert admin.get(location + "?wait=10").json()["result"] == "secret"


def test_a_job_that_ended_without_a_value_has_no_result(anyone: httpx.Client) -> None:
    location = submit(anyone, "fails", "luck").headers["location"]
    job = anyone.get(location + "?wait=10").json()
    assert (job["status"], job["outcome"], job["error"]["errorMessage"]) == ("failed", "error", "no luck")
    assert "result" not in job
    reply = anyone.get(location + "/result")
    assert (reply.status_code, reply.json()["code"]) == (409, "no_result")


@pytest.mark.slow
def test_a_job_that_does_not_start_in_time_expires(anyone: httpx.Client) -> None:
    headers = {"x-sandlot-delay": "1s", "x-sandlot-expires": "500ms"}
    location = submit(anyone, "echo", 1, **headers).headers["location"]
    job = anyone.get(location + "?wait=15").json()
    assert (job["status"], job["outcome"]) == ("expired", "expired")


def test_a_result_is_sent_whole_or_in_ranges(anyone: httpx.Client) -> None:
    location = submit(anyone, "echo", "x" * 300_000).headers["location"]
    anyone.get(location + "?wait=10")
    whole = anyone.get(location + "/result")
    etag = whole.headers["etag"]
    again = anyone.get(location + "/result", headers={"if-none-match": f'"other", {etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    parts = [anyone.get(location + "/result", headers={"range": r}) for r in ("bytes=0-99", "bytes=100-", "bytes=-1")]
    assert [part.status_code for part in parts] == [206, 206, 206]
    assert parts[0].content + parts[1].content == whole.content == b'"' + b"x" * 300_000 + b'"'
    assert (parts[2].content, parts[2].headers["content-range"]) == (b'"', "bytes 300001-300001/300002")
    behind = anyone.get(location + "/result", headers={"range": "bytes=300002-"})
    assert (behind.status_code, behind.headers["content-range"]) == (416, "bytes */300002")
    stale = anyone.get(location + "/result", headers={"range": "bytes=0-9", "if-range": '"other"'})
    assert (stale.status_code, stale.content) == (200, whole.content)


def large_event() -> bytes:
    """JSON of almost 6 MiB, no two pieces of which are the same."""
    return json.dumps([f"{number:09}" for number in range(450_000)], separators=(",", ":")).encode()


def pieces_of(stack: Stack, job_id: str) -> tuple[redis.Redis, str]:
    client = redis.Redis.from_url(stack.environment["SANDLOT_REDIS_URL"])
    return client, f"sandlot:result:{job_id}:1"


@pytest.mark.slow
def test_a_result_of_6_mib_is_the_same_whole_in_ranges_and_by_head(stack: Stack, anyone: httpx.Client) -> None:
    event = large_event()
    called = anyone.post("/v1/functions/echo/invoke", content=event, timeout=HANG_S)
    assert (called.status_code, called.headers["content-length"]) == (200, str(len(called.content)))
    assert json.loads(called.content) == json.loads(event)
    where, etag = called.headers["content-location"], called.headers["etag"]
    assert etag == f'"{hashlib.sha256(called.content).hexdigest()}"'

    whole = anyone.get(where)
    assert (whole.status_code, whole.headers["etag"], whole.headers["accept-ranges"]) == (200, etag, "bytes")
    assert (whole.content, whole.headers["content-type"]) == (called.content, "application/json")
    size = len(whole.content)
    for start, stop in ((0, 1), (262_143, 262_145), (1_000_000, 3_000_001), (size - 5, size)):
        part = anyone.get(where, headers={"range": f"bytes={start}-{stop - 1}", "if-range": etag})
        assert (part.status_code, part.content) == (206, whole.content[start:stop])
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert part.headers["content-length"] == str(stop - start)
    assert anyone.get(where, headers={"range": f"bytes={size}-"}).headers["content-range"] == f"bytes */{size}"
    for ask in (anyone.get, anyone.head):
        unchanged = ask(where, headers={"if-none-match": etag})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    head = anyone.head(where, headers={"range": "bytes=0-9"})
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
    assert head.headers["etag"] == etag
    # Behind a URL it is the same value, or the response that it stands for.
    assert anyone.post("/fn/responds", content=event, timeout=HANG_S).json() == json.loads(event)
    response = anyone.post("/fn/responds", json={"statusCode": 201, "body": "x" * 1_000_000})
    assert (response.status_code, response.text) == (201, "x" * 1_000_000)


@pytest.mark.slow
def test_a_changed_or_missing_large_result_is_never_returned(stack: Stack, anyone: httpx.Client) -> None:
    called = anyone.post("/v1/functions/echo/invoke", content=large_event(), timeout=HANG_S)
    where, job_id = called.headers["content-location"], called.headers["x-job-id"]
    client, key = pieces_of(stack, job_id)
    with client:
        first, third = client.hget(key, "0"), client.hget(key, "3")
        client.hset(key, "3", third[:-1] + bytes([third[-1] ^ 1]))
        with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
            anyone.get(where)
        got = b""
        with anyone.stream("GET", where) as cut, contextlib.suppress(httpx.RemoteProtocolError):
            for chunk in cut.iter_bytes():
                got += chunk
        assert got == called.content[: 3 * 262_144]
        assert anyone.get(where, headers={"range": "bytes=786432-786440"}).json()["code"] == "unsafe_record"
        assert anyone.get(where, headers={"range": "bytes=0-9"}).content == called.content[:10]
        client.hset(key, mapping={"0": third, "3": third})
        refused = anyone.get(where)
        assert (refused.status_code, refused.json()["code"]) == (500, "unsafe_record")
        client.hset(key, "0", first)
        assert anyone.get(where).content == called.content
        client.delete(key)
    for gone in (anyone.get(where), anyone.get(where, headers={"range": "bytes=5-"})):
        assert (gone.status_code, gone.json()["code"]) == (410, "job_gone")
    assert anyone.head(where).status_code == 410
    assert anyone.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded"


def test_an_ended_job_can_be_run_again(anyone: httpx.Client, admin: httpx.Client) -> None:
    location = submit(anyone, "echo", {"n": 1}).headers["location"]
    first = anyone.get(location + "?wait=10").json()
    reply = anyone.post(location + "/retry")
    assert reply.status_code == 202
    second = anyone.get(reply.headers["location"] + "?wait=10").json()
    assert second["id"] != first["id"]
    assert (second["result"], second["version"]) == (first["result"], first["version"]) == ({"n": 1}, 1)
    running = submit(anyone, "sleeps", 15).headers["location"]
    refused = anyone.post(running + "/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_unfinished")
    assert anyone.delete(running).status_code == 202
    private = submit(admin, "private").headers["location"]
    admin.get(private + "?wait=10")
    assert anyone.post(private + "/retry").status_code == 404
    assert admin.post(private + "/retry").status_code == 202


def test_an_event_changed_in_redis_is_not_signed_again(stack: Stack, anyone: httpx.Client) -> None:
    location = submit(anyone, "echo", {"n": 1}).headers["location"]
    anyone.get(location + "?wait=10")
    job = f"rq:job:{location.rsplit('/', 1)[1]}"
    with redis.Redis.from_url(stack.environment["SANDLOT_REDIS_URL"]) as client:
        data = client.hget(job, "data")
        client.hset(job, "data", data.replace(b'{"n":1}', b'{"n":2}').replace(b'{"n": 1}', b'{"n": 2}'))
        assert client.hget(job, "data") != data
    reply = anyone.post(location + "/retry")
    assert (reply.status_code, reply.json()["code"]) == (500, "unsafe_record")


@pytest.mark.slow
def test_only_delivered_results_have_a_shorter_retention(
    stack: Stack, anyone: httpx.Client, admin: httpx.Client
) -> None:
    """A result counts as delivered if it was sent to a caller that was still connected.

    A result to be polled for later, or one whose caller hung up, does not.
    """
    with redis.Redis.from_url(stack.environment["SANDLOT_REDIS_URL"]) as client:

        def life_s(job_id: str) -> int:
            assert anyone.get(f"/v1/jobs/{job_id}?wait=10").json()["status"] == "succeeded"
            return int(client.ttl(f"rq:job:{job_id}"))

        delivered = anyone.post("/v1/functions/echo/invoke", json={"n": 1}).headers["x-job-id"]
        assert 0 < life_s(delivered) <= 300
        unfinished = anyone.post("/v1/functions/sleeps/invoke", json=1, headers={"prefer": "wait=0.1"})
        assert unfinished.status_code == 504
        assert life_s(unfinished.json()["job"]["id"]) > 300
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{stack.url}/v1/functions/sleeps/invoke", content=b"0.77", timeout=0.2)
        job_id = admin.get("/v1/jobs?function=sleeps&limit=1").json()["jobs"][0]["id"]
        assert client.hget(f"rq:job:{job_id}", "data").endswith(b"[0.77],{}]")
        assert anyone.get(f"/v1/jobs/{job_id}?wait=10").json()["status"] == "succeeded"
        until(
            lambda: client.ttl(f"rq:job:{job_id}") > 300,
            reason=lambda: "an undelivered result got the shorter retention",
        )


def test_the_client_reads_a_job_and_its_result(stack: Stack) -> None:
    with Client(stack.url, stack.key) as client:
        result = client.invoke("echo", {"a": 1})
        assert (result.json(), result.ok, result.version) == ({"a": 1}, True, "1")
        assert result.timings["total"] >= 0
        failed = client.invoke("fails", "luck")
        assert (failed.outcome, failed.problem["error"]["errorType"]) == (OutcomeKind.ERROR, "ValueError")
        job = client.submit("prints", 3)
        assert client.wait(job["id"])["status"] == "succeeded"
        assert client.result(job["id"]) == b'"done"'
        assert client.logs(job["id"]).startswith("0 xxx")
        assert client.wait(client.retry(job["id"])["id"])["result"] == "done"
        assert {"echo", "private"} <= {function["name"] for function in client.functions()}
        assert client.function("echo")["manifest"]["visibility"] == "public"
        assert client.health()["status"] == "ready"
        with pytest.raises(FunctionNotFound):
            client.invoke("nope")
        with pytest.raises(JobNotFound):
            client.job(NEVER)
        with pytest.raises(NoResult):
            client.result(failed.job_id)
        with pytest.raises(InvalidManifest):
            client.deploy("wrong", source="def handler(")


def test_a_function_is_deployed_called_redeployed_and_removed(stack: Stack) -> None:
    with Client(stack.url, stack.key) as client:
        first = client.deploy("short-lived", source="def handler(event, context):\n    return 1\n")
        again = client.deploy("short-lived", source="def handler(event, context):\n    return 1\n")
        assert client.invoke("short-lived").json() == 1
        second = client.deploy("short-lived", source="def handler(event, context):\n    return 2\n")
        assert [version["version"] for version in (first, again, second)] == [1, 1, 2]
        assert client.invoke("short-lived").json() == 2
        assert client.invoke("short-lived", version="1").json() == 1
        client.delete("short-lived")
        with pytest.raises(FunctionNotFound):
            client.invoke("short-lived")


@pytest.mark.slow
def test_a_retryable_failure_runs_again_and_shows_the_reason(anyone: httpx.Client) -> None:
    location = submit(anyone, "shaky", 1).headers["location"]
    seen = anyone.get(location).json()
    while seen["status"] in ("queued", "running"):
        seen = anyone.get(location).json()
    assert (seen["status"], seen["attempt"], seen["error"]["errorType"]) == ("scheduled", 1, "ZeroDivisionError")
    job = anyone.get(location + "?wait=20").json()
    assert (job["status"], job["attempt"], job["result"]) == ("succeeded", 2, 2)
    assert "error" not in job
    assert job["last_failure"]["attempt"] == 1
    assert anyone.get(location + "/logs").text == "try 2\n"


@pytest.mark.slow
def test_a_synchronous_caller_waits_through_retries(anyone: httpx.Client) -> None:
    reply = anyone.post("/v1/functions/shaky/invoke", content=b"2")
    assert (reply.status_code, reply.json()["code"], reply.json()["job"]["attempt"]) == (502, "function_error", 2)


@pytest.mark.slow
def test_dead_letters_can_be_listed_inspected_redriven_and_discarded(admin: httpx.Client, anyone: httpx.Client) -> None:
    job_id = submit(admin, "shaky", 9).headers["location"].rpartition("/")[2]
    assert admin.get(f"/v1/jobs/{job_id}?wait=20").json()["status"] == "failed"
    assert job_id in {letter["id"] for letter in admin.get("/v1/dead-letters?function=shaky").json()["dead_letters"]}
    assert admin.get("/v1/dead-letters?function=echo").json() == {"dead_letters": [], "next": None}
    path = f"/v1/dead-letters/{job_id}"
    letter = admin.get(path).json()
    assert (letter["event"], letter["attempt"], letter["last_failure"]["attempt"]) == (9, 2, 1)
    assert [
        anyone.request(*call).status_code for call in (("GET", path), ("DELETE", path), ("POST", path + "/redrive"))
    ] == [404] * 3
    assert anyone.get("/v1/dead-letters").status_code == 401
    again = admin.post(path + "/redrive")
    assert (again.status_code, admin.get(path).status_code) == (202, 410)
    successor = again.json()["id"]
    assert admin.get(f"/v1/jobs/{successor}?wait=20").json()["attempt"] == 2
    assert admin.delete(f"/v1/dead-letters/{successor}").status_code == 204
    assert admin.delete(f"/v1/dead-letters/{successor}").status_code == 404
