"""Versions and aliases over real HTTP: a name runs its version, and every reply names it."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from sandlot.redis.keys import JOB
from tests.system.http.conftest import Stack


def source(number: int) -> dict[str, str]:
    return {"source": f"def handler(event, context):\n    return {number}\n", "filename": "main.py"}


@pytest.fixture
def function(admin: httpx.Client) -> Iterator[str]:
    """A function with two versions, that return their numbers."""
    for number in (1, 2):
        admin.put("/v1/functions/versioned", json=source(number)).raise_for_status()
    yield "/v1/functions/versioned"
    admin.delete("/v1/functions/versioned")


def ran(reply: httpx.Response) -> tuple[Any, str]:
    assert reply.status_code == 200, reply.text
    return reply.json(), reply.headers["x-function-version"]


def test_a_call_by_alias_runs_the_version_the_alias_points_at(admin: httpx.Client, function: str) -> None:
    assert admin.put(f"{function}/aliases/prod", json={"version": 1}).json() == {"alias": "prod", "version": 1}
    reply = admin.post(f"{function}/invoke?version=prod")
    assert ran(reply) == (1, "1")
    assert admin.get(f"/v1/jobs/{reply.headers['x-job-id']}").json()["version"] == 1
    assert ran(admin.post(f"{function}/invoke")) == (2, "2")
    admin.put(f"{function}/aliases/prod", json={"version": 2}).raise_for_status()
    assert ran(admin.post(f"{function}/invoke?version=prod")) == (2, "2")
    assert admin.delete(f"{function}/aliases/prod").status_code == 204
    assert admin.post(f"{function}/invoke?version=prod").json()["code"] == "version_not_found"


@pytest.mark.parametrize(
    ("method", "path", "prefer", "status"),
    [
        ("POST", "/v1/functions/versioned/invoke", "", 502),
        ("POST", "/v1/functions/versioned/invoke", "respond-async", 202),
        ("POST", "/v1/functions/versioned/invoke", "wait=0", 504),
        ("GET", "/fn/versioned", "", 502),
        ("GET", "/versioned", "", 502),
    ],
)
def test_replies_without_a_value_also_name_the_version_that_ran(
    admin: httpx.Client, function: str, method: str, path: str, prefer: str, status: int
) -> None:
    admin.put(function, json={"source": "def handler(event, context):\n    return 1 / 0\n"}).raise_for_status()
    reply = admin.request(method, path, headers={"prefer": prefer} if prefer else {})
    assert (reply.status_code, reply.headers["x-function-version"]) == (status, "3"), reply.text


def test_every_call_of_a_version_uses_its_manifest(stack: Stack, admin: httpx.Client, function: str) -> None:
    code = (
        "import os\n\ndef handler(event, context):\n    return [os.environ['GREETING'], context.memory_limit_in_mb]\n"
    )
    settings = {"environment": {"GREETING": "Hello"}, "memory": "96MiB", "result_ttl": "77s"}
    admin.put(function, json={"source": code, "manifest": settings}).raise_for_status()
    reply = admin.post(f"{function}/invoke", headers={"prefer": "respond-async"})
    job = admin.get(reply.headers["location"], headers={"prefer": "wait=20"}).json()
    assert job["result"] == ["Hello", 96]
    with redis.Redis.from_url(stack.environment["SANDLOT_REDIS_URL"]) as client:
        assert 70 < client.ttl(JOB + job["id"]) <= 77
    assert settings.items() <= admin.get(function).json()["manifest"].items()


@pytest.mark.slow
def test_an_archive_over_the_limit_is_413_and_the_previous_version_serves(admin: httpx.Client, function: str) -> None:
    large = b"PK" + bytes(50 * 1024 * 1024)
    reply = admin.put(function, content=large, headers={"content-type": "application/zip"})
    assert (reply.status_code, reply.json()["code"], reply.json()["limit_bytes"]) == (
        413,
        "payload_too_large",
        52428800,
    )
    assert ran(admin.post(f"{function}/invoke")) == (2, "2")


def test_moving_latest_is_a_rollback(admin: httpx.Client, function: str) -> None:
    admin.put(f"{function}/aliases/$LATEST", json={"version": 1}).raise_for_status()
    assert ran(admin.post(f"{function}/invoke")) == (1, "1")
    assert ran(admin.get("/fn/versioned")) == (1, "1")


def test_an_alias_splits_calls_and_a_key_stays_on_one_version(admin: httpx.Client, function: str) -> None:
    admin.put(f"{function}/aliases/prod", json={"version": 1, "weights": {"2": 0.5}}).raise_for_status()
    ends = {}
    for number in range(16):
        reply = admin.post(f"{function}/invoke?version=prod", headers={"idempotency-key": f"share-{number}"})
        value, version = ran(reply)
        assert str(value) == version
        ends[number] = value
    assert set(ends.values()) == {1, 2}


def test_one_of_two_concurrent_deploys_is_refused_as_a_conflict(admin: httpx.Client, function: str) -> None:
    etag = admin.get(function).headers["etag"]
    both = threading.Barrier(2)
    replies: list[httpx.Response] = []

    def deploy(number: int) -> None:
        both.wait(10)
        replies.append(admin.put(function, json=source(number), headers={"if-match": etag}))

    threads = [threading.Thread(target=deploy, args=(number,)) for number in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    won, lost = sorted(replies, key=lambda reply: reply.status_code)
    assert (won.status_code, lost.status_code, lost.json()["code"]) == (200, 412, "version_conflict")
    assert admin.get(function).headers["etag"] == won.headers["etag"] != etag
    assert ran(admin.post(f"{function}/invoke"))[1] == str(won.json()["version"])
    moved = admin.put(f"{function}/aliases/prod", json={"version": 1}, headers={"if-match": etag})
    assert (moved.status_code, moved.json()["code"]) == (412, "version_conflict")


def test_a_removal_is_refused_when_the_function_has_changed_since_it_was_read(
    admin: httpx.Client, function: str
) -> None:
    etag = admin.get(function).headers["etag"]
    assert admin.get(function).json()["revision"] == etag.strip('"')
    admin.put(function, json=source(3)).raise_for_status()
    refused = admin.delete(function, headers={"if-match": etag})
    assert (refused.status_code, refused.json()["code"]) == (412, "version_conflict")
    assert ran(admin.post(f"{function}/invoke")) == (3, "3")
    assert admin.delete(function, headers={"if-match": admin.get(function).headers["etag"]}).status_code == 204
    for gone in (admin.delete(function), admin.get(function), admin.delete(function, headers={"if-match": etag})):
        assert (gone.status_code, gone.json()["code"]) == (404, "function_not_found")


@pytest.mark.slow
def test_removing_a_function_cancels_its_queued_jobs_and_keeps_its_cap_until_then(admin: httpx.Client) -> None:
    """One at a time, so the second waits while the first runs."""
    code = "import time\n\ndef handler(event, context):\n    time.sleep(1)\n    return event\n"
    admin.put("/v1/functions/single", json={"source": code, "manifest": {"concurrency": 1}}).raise_for_status()
    locations = [
        admin.post("/v1/functions/single/invoke?async=true", content=b"1").headers["location"] for _ in range(4)
    ]
    first, second = (admin.get(location + "?wait=20").json() for location in locations[:2])
    assert first["status"] == second["status"] == "succeeded"
    assert second["started_at"] >= first["ended_at"]
    assert admin.delete("/v1/functions/single").status_code == 204
    statuses = [admin.get(location + "?wait=20").json()["status"] for location in locations[2:]]
    assert statuses[-1] == "cancelled"
    assert statuses[0] in ("succeeded", "cancelled")  # it may have run already


def test_versions_are_listed_in_pages(admin: httpx.Client, function: str) -> None:
    first = admin.get(f"{function}/versions?limit=1").json()
    assert ([version["version"] for version in first["versions"]], first["next"]) == ([2], 2)
    second = admin.get(f"{function}/versions?limit=1&cursor=2").json()
    assert ([version["version"] for version in second["versions"]], second["next"]) == ([1], None)
    admin.put(f"{function}/aliases/prod", json={"version": 1}).raise_for_status()
    assert admin.get(f"{function}/aliases").json() == {"aliases": {"prod": {"version": 1}}}
    assert admin.get(function).json()["aliases"] == {"prod": {"version": 1}}


def test_a_downloaded_version_can_be_deployed_and_is_the_same(admin: httpx.Client, function: str) -> None:
    bundle = admin.get(f"{function}/versions/1/bundle")
    assert bundle.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(bundle.content)) as archive:
        assert sorted(archive.namelist()) == ["function.toml", "main.py"]
    again = admin.put(function, content=bundle.content, headers={"content-type": "application/zip"}).json()
    assert (again["version"], again["changed"]) == (1, False)


def test_a_function_that_no_worker_can_run_is_reported_at_deploy_and_at_call(
    admin: httpx.Client, function: str
) -> None:
    reply = admin.put(function, json=source(5) | {"manifest": {"tags": ["gpu"]}})
    assert reply.status_code == 200
    assert "sandlot worker --tag gpu" in reply.json()["warnings"][0]
    for prefer in ("wait=30", "respond-async"):
        refused = admin.post(f"{function}/invoke", headers={"prefer": prefer})
        assert (refused.status_code, refused.json()["code"]) == (503, "no_worker")
        assert "it needs one for 'python,gpu'. Start one with: sandlot worker --tag gpu" in refused.json()["detail"]


@pytest.mark.slow
def test_a_worker_with_the_tag_runs_the_function(stack: Stack, admin: httpx.Client, function: str) -> None:
    worker = stack.start("worker", SANDLOT_TAGS="gpu", SANDLOT_SLOTS="1")
    worker.event("worker started")
    try:
        reply = admin.put(function, json=source(6) | {"manifest": {"tags": ["gpu"]}})
        assert "warnings" not in reply.json()
        assert ran(admin.post(f"{function}/invoke"))[0] == 6
    finally:
        worker.stop()


def test_a_large_folder_travels_in_chunks(admin: httpx.Client, function: str) -> None:
    """6 MiB that do not shrink, so that the bundle has several chunks."""
    archive = io.BytesIO()
    data = bytes((number * 7919 >> 3) & 255 for number in range(1 << 16)) * 96
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as folder:
        folder.writestr(
            "main.py", "import os\n\ndef handler(event, context):\n    return os.path.getsize('/fn/data')\n"
        )
        folder.writestr("data", data)
    admin.put(function, content=archive.getvalue(), headers={"content-type": "application/zip"}).raise_for_status()
    assert ran(admin.post(f"{function}/invoke"))[0] == len(data)
