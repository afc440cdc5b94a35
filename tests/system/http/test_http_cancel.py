"""Jobs stopped over real HTTP: by who cancels them, and by whose caller hangs up."""

from __future__ import annotations

import concurrent.futures
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.system.http.conftest import Stack
from tests.waiting import until

# A process shows outside by the name that it gives itself inside: prctl(2), PR_SET_NAME.
LINGERS = """
import ctypes, os, time

def handler(event, context):
    ctypes.CDLL(None).prctl(15, event.encode(), 0, 0, 0)
    os.fork()
    time.sleep(60)
"""
TAKES_TURNS = "import time\n\ndef handler(event, context):\n    time.sleep(event)\n    return event\n"

Until = Callable[[Callable[[], object]], None]


def processes_named(name: str) -> list[int]:
    """Return the machine's processes of that name, unreaped dead ones included.

    The worker runs on this machine.
    """
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == name:
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            pass  # it ended while we looked
    return found


def submit(client: httpx.Client, name: str, event: Any = None, **headers: str) -> str:
    headers = {"prefer": "respond-async", **headers}
    reply = client.post(f"/v1/functions/{name}/invoke", content=json.dumps(event), headers=headers)
    assert reply.status_code == 202, reply.text
    return str(reply.headers["location"])


@pytest.fixture
def lingers(admin: httpx.Client) -> Iterator[str]:
    manifest = {"timeout": "60s", "visibility": "public"}
    admin.put("/v1/functions/lingers", json={"source": LINGERS, "manifest": manifest}).raise_for_status()
    yield "lingers"
    admin.delete("/v1/functions/lingers").raise_for_status()


def test_a_cancelled_running_job_is_dead_before_its_caller_gets_the_reply(
    admin: httpx.Client, stack: Stack, lingers: str
) -> None:
    with concurrent.futures.ThreadPoolExecutor() as threads, stack.client() as caller:
        waiting = threads.submit(caller.post, f"/v1/functions/{lingers}/invoke", json="cancel-me")
        until(lambda: len(processes_named("cancel-me")) == 2)
        job_id = admin.get(f"/v1/jobs?function={lingers}&limit=1").json()["jobs"][0]["id"]
        accepted = admin.delete(f"/v1/jobs/{job_id}")
        reply = waiting.result()
        left = processes_named("cancel-me")

    job = admin.get(f"/v1/jobs/{job_id}").json()
    assert (accepted.status_code, accepted.json()["id"], accepted.json()["status"]) == (202, job_id, "running")
    assert (job["status"], job["outcome"], job["attempt"]) == ("cancelled", "cancelled", 1)
    error = {"errorType": "Cancelled", "errorMessage": "it was cancelled while it ran", "stackTrace": []}
    assert job["error"] == error
    # The reply waits for the kernel's measurements, known once every process is dead; half a
    # second at most.
    evidence = {"evidence": job["evidence"]} if "evidence" in job else {}
    assert not evidence or (job["evidence"]["signal"], left) == ("SIGKILL", [])
    until(lambda: processes_named("cancel-me") == [])
    assert "result" not in job
    assert 0 < job["timings"]["run"] < 60_000

    assert (reply.status_code, reply.headers["content-type"]) == (409, "application/problem+json")
    told = {name: reply.headers[name] for name in ("x-job-id", "x-function-version", "x-sandlot-outcome")}
    assert told == {"x-job-id": job_id, "x-function-version": "1", "x-sandlot-outcome": "cancelled"}
    problem = {
        "type": "urn:sandlot:problem:job_cancelled",
        "title": "The job was cancelled",
        "status": 409,
        "detail": "Cancelled: it was cancelled while it ran",
        "instance": f"/v1/functions/{lingers}/invoke",
        "code": "job_cancelled",
        "outcome": "cancelled",
        "job": {
            "id": job_id,
            "function": lingers,
            "version": 1,
            "status": "cancelled",
            "attempt": 1,
            "outcome": "cancelled",
            "timings": job["timings"],
            "links": {
                "self": f"/v1/jobs/{job_id}",
                "result": f"/v1/jobs/{job_id}/result",
                "logs": f"/v1/jobs/{job_id}/logs",
                "events": f"/v1/jobs/{job_id}/events",
            },
        },
        "error": error,
        **evidence,
    }
    assert reply.text == json.dumps(problem, separators=(",", ":"))

    for method, path in (("DELETE", ""), ("GET", "/result")):
        refused = admin.request(method, f"/v1/jobs/{job_id}{path}")
        assert (refused.status_code, refused.json()["code"]) == (409, "job_final" if path == "" else "no_result")
    assert admin.get(f"/v1/jobs/{job_id}").json() == job


def test_a_scheduled_job_that_is_cancelled_never_runs(anyone: httpx.Client) -> None:
    location = submit(anyone, "echo", 1, **{"x-sandlot-delay": "1h"})
    assert anyone.delete(location).status_code == 202
    job = anyone.get(location + "?wait=10").json()
    assert (job["status"], job["attempt"], job["started_at"]) == ("cancelled", 0, None)


class Caller:
    """A caller on its own connection that does not wait for the reply."""

    def __init__(self, stack: Stack, function: str, event: object, on_disconnect: str = "") -> None:
        parts = urlsplit(stack.url)
        body = json.dumps(event)
        lines = [
            f"POST /v1/functions/{function}/invoke HTTP/1.1",
            "host: sandlot.test",
            f"authorization: Bearer {stack.key}",
            f"content-length: {len(body)}",
            *([f"x-sandlot-on-disconnect: {on_disconnect}"] if on_disconnect else []),
        ]
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.sendall("\r\n".join([*lines, "", body]).encode())

    def hang_up(self) -> None:
        self._socket.close()


def newest(client: httpx.Client, function: str) -> dict[str, Any]:
    job: dict[str, Any] = client.get(f"/v1/jobs?function={function}&limit=1").json()["jobs"][0]
    return job


def in_order(manifest: str) -> list[str]:
    """Return the values of the call option, those whose job continues first.

    Once the last job has been cancelled, a wrong cancellation of an earlier one would show.
    """
    return sorted(("detach", "", "cancel"), key=lambda wish: (wish or manifest) == "cancel")


@pytest.mark.parametrize("manifest", ["cancel", "detach"])
def test_hanging_up_on_a_queued_job_follows_the_call_option_and_then_the_manifest(
    admin: httpx.Client, stack: Stack, manifest: str
) -> None:
    name = f"turns-{manifest}"
    settings = {"concurrency": 1, "on_disconnect": manifest, "timeout": "60s"}
    admin.put(f"/v1/functions/{name}", json={"source": TAKES_TURNS, "manifest": settings}).raise_for_status()
    running = submit(admin, name, 60)
    until(lambda: admin.get(running).json()["status"] == "running")

    jobs = {}
    for wish in in_order(manifest):
        before = newest(admin, name)["id"]
        caller = Caller(stack, name, 0, wish)
        until(lambda before=before: newest(admin, name)["id"] != before)
        job = newest(admin, name)
        assert (job["status"], job["attempt"]) == ("queued", 0)
        caller.hang_up()
        if (wish or manifest) == "cancel":
            until(lambda job=job: admin.get(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled")
        jobs[wish] = job["id"]

    assert admin.delete(running).status_code == 202
    after = {wish: admin.get(f"/v1/jobs/{job_id}?wait=20").json() for wish, job_id in jobs.items()}
    assert {wish: (job["status"], job["attempt"]) for wish, job in after.items()} == {
        wish: ("cancelled", 0) if (wish or manifest) == "cancel" else ("succeeded", 1) for wish in jobs
    }
    assert all(job["started_at"] is None for job in after.values() if job["status"] == "cancelled")
    admin.delete(f"/v1/functions/{name}").raise_for_status()


@pytest.mark.parametrize("manifest", ["cancel", "detach"])
def test_hanging_up_on_a_running_job_follows_the_call_option_and_then_the_manifest(
    admin: httpx.Client, stack: Stack, manifest: str
) -> None:
    name = f"lingers-{manifest}"
    settings = {"on_disconnect": manifest, "timeout": "60s"}
    admin.put(f"/v1/functions/{name}", json={"source": LINGERS, "manifest": settings}).raise_for_status()
    for wish in in_order(manifest):
        process = f"{manifest}-{wish}"
        caller = Caller(stack, name, process, wish)
        until(lambda process=process: len(processes_named(process)) == 2)
        caller.hang_up()
        if (wish or manifest) == "cancel":
            until(lambda process=process: processes_named(process) == [])
            until(lambda: newest(admin, name)["status"] == "cancelled")
    left = admin.get(f"/v1/jobs?function={name}&status=running").json()["jobs"]
    assert len(left) == sum((wish or manifest) == "detach" for wish in in_order(manifest))
    for job in left:
        assert admin.delete(f"/v1/jobs/{job['id']}").status_code == 202
        assert admin.get(f"/v1/jobs/{job['id']}?wait=20").json()["status"] == "cancelled"
    admin.delete(f"/v1/functions/{name}").raise_for_status()
