"""Batches, lists, and jobs that are no longer kept: over real HTTP."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import redis

from sandlot.client import Client
from sandlot.errors import CallerError
from tests.system.http.conftest import Stack

BATCH = "/v1/functions/echo/invoke-batch"


def ended(client: httpx.Client, job_id: str) -> Any:
    return client.get(f"/v1/jobs/{job_id}?wait=20").json()


def test_each_event_of_a_batch_becomes_a_job(anyone: httpx.Client) -> None:
    events = [1, {"a": [2]}, "three", None, " é ", 1.50]
    reply = anyone.post(BATCH, content=json.dumps(events))
    assert (reply.status_code, reply.headers["retry-after"]) == (202, "1")
    assert reply.headers["x-function-version"].isdigit()
    jobs = reply.json()["jobs"]
    assert [ended(anyone, job_id)["result"] for job_id in jobs] == events


def test_an_event_arrives_as_it_was_written(anyone: httpx.Client) -> None:
    (job_id,) = anyone.post(BATCH, content=b'  [ {"a" : 1e2,\n"b":"\\u00e9"} ] ').json()["jobs"]
    assert ended(anyone, job_id)["result"] == {"a": 100.0, "b": "é"}


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (b"[]", "bad_request", "a batch of 0 events"),
        (b"[" + b"1," * 1000 + b"1]", "bad_request", "a batch of 1001 events"),
        (b'{"a": 1}', "invalid_json", "the body is not an array"),
        (b"", "invalid_json", "the text is empty"),
        (b"[1, 2", "invalid_json", "ends too early"),
        (b"[1, NaN]", "invalid_json", "NaN"),
        (b"[1, 1e999]", "invalid_json", "event 1 of the batch is the number 1e999"),
        (b'["a", "b", "\xff"]', "invalid_json", "UTF-8"),
        (b'["a", "\\ud800"]', "invalid_json", "lone surrogate"),
        (b"[1, " + b"[" * 201 + b"]" * 201 + b"]", "invalid_json", "event 1 of the batch is nested deeper than 200"),
    ],
)
def test_an_invalid_batch_is_refused_as_a_whole(anyone: httpx.Client, body: bytes, code: str, said: str) -> None:
    reply = anyone.post(BATCH, content=body)
    assert (reply.status_code, reply.json()["code"]) == (400, code), reply.text
    assert said in reply.json()["detail"]


def test_one_idempotency_key_covers_the_whole_batch(anyone: httpx.Client) -> None:
    def post(events: object) -> httpx.Response:
        return anyone.post(BATCH, content=json.dumps(events), headers={"idempotency-key": '"batch-1"'})

    first = post([1, 2, 3]).json()
    assert post([1, 2, 3]).json() == first
    reply = post([1, 2])
    assert (reply.status_code, reply.json()["code"]) == (422, "idempotency_conflict")


def test_a_batch_needs_the_same_key_as_a_call(anyone: httpx.Client, admin: httpx.Client) -> None:
    path = "/v1/functions/private/invoke-batch"
    assert anyone.post(path, content=b"[1]").status_code == 401
    (job_id,) = admin.post(path, content=b"[1]").json()["jobs"]
    assert ended(admin, job_id)["result"] == "secret"
    assert anyone.get(f"/v1/jobs/{job_id}").status_code == 404


def test_jobs_are_listed_for_their_owner_newest_first(admin: httpx.Client, anyone: httpx.Client) -> None:
    jobs = admin.post("/v1/functions/private/invoke-batch", content=b"[1, 2, 3]").json()["jobs"]
    for job_id in jobs:
        ended(admin, job_id)
    reply = admin.get("/v1/jobs", params={"function": "private", "status": "succeeded", "limit": 2})
    page = reply.json()
    newest = sorted(jobs, reverse=True)
    assert [job["id"] for job in page["jobs"]] == newest[:2]
    assert {job["status"] for job in page["jobs"]} == {"succeeded"}
    rest = admin.get("/v1/jobs", params={"function": "private", "limit": 1, "cursor": page["next"]}).json()
    assert [job["id"] for job in rest["jobs"]] == newest[2:3]
    assert anyone.get("/v1/jobs").status_code == 401


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("state=failed", "unknown query parameter"),
        ("status=done", "status"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
    ],
)
def test_an_invalid_filter_is_refused(admin: httpx.Client, query: str, said: str) -> None:
    reply = admin.get("/v1/jobs?" + query)
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
    assert said in reply.json()["detail"]


def test_an_expired_job_is_410_for_its_owner_and_404_for_others(
    admin: httpx.Client, anyone: httpx.Client, stack: Stack
) -> None:
    (mine,) = admin.post("/v1/functions/private/invoke-batch", content=b"[1]").json()["jobs"]
    (anybodys,) = anyone.post(BATCH, content=b"[1]").json()["jobs"]
    with redis.Redis.from_url(stack.environment["SANDLOT_REDIS_URL"]) as valkey:
        for job_id in (mine, anybodys):
            ended(admin, job_id)
            valkey.delete(f"rq:job:{job_id}")
    for path in ("", "/result", "/logs"):
        reply = admin.get(f"/v1/jobs/{mine}{path}")
        assert (reply.status_code, reply.json()["code"]) == (410, "job_gone")
        assert anyone.get(f"/v1/jobs/{anybodys}{path}").status_code == 410
        assert anyone.get(f"/v1/jobs/{mine}{path}").status_code == 404


def test_the_client_sends_batches_and_lists_jobs(stack: Stack) -> None:
    with Client(stack.url, stack.key) as client:
        jobs = client.invoke_batch("echo", [{"n": 1}, {"n": 2}])
        assert [client.wait(job_id)["result"] for job_id in jobs] == [{"n": 1}, {"n": 2}]
        assert len(client.jobs(function="echo", limit=1)["jobs"]) == 1
        with pytest.raises(CallerError, match="a batch of 0 events"):
            client.invoke_batch("echo", [])
