"""What a caller sees of a job: before, while and after it runs."""

import asyncio
from collections.abc import Callable

import httpx

from api.app import Api
from sandlot.jobs import JobResult
from sandlot.models import OutcomeKind
from tests.unit.api.conftest import Ending, FakeQueue
from tests.waiting import HANG_S

HELLO = "/v1/functions/hello/invoke"


async def submitted(anyone: httpx.AsyncClient) -> str:
    return (await anyone.post(HELLO + "?async=true", content=b'{"a":1}')).headers["x-job-id"]


async def test_a_bad_wait_is_refused_whatever_the_job(anyone: httpx.AsyncClient) -> None:
    for job_id in (await submitted(anyone), "unknown"):
        reply = await anyone.get(f"/v1/jobs/{job_id}?wait=long")
        assert (reply.status_code, reply.json()["detail"]) == (400, "wait=long is not a number of seconds")
        assert (await anyone.get(f"/v1/jobs/{job_id}?wiat=1")).status_code == 400


async def test_a_job_that_succeeded_shows_its_result_and_links(anyone: httpx.AsyncClient) -> None:
    job_id = await submitted(anyone)
    job = (await anyone.get(f"/v1/jobs/{job_id}")).json()
    assert job["status"] == "succeeded"
    assert job["outcome"] == "ok"
    assert job["result"] == {"a": 1}
    assert job["created_at"] == "2026-11-23T04:00:00.000Z"
    assert job["timings"] == {"queued": 0.5, "boot": 0.0, "import": 0.0, "run": 1.25, "settle": 0.0, "total": 2.0}
    assert job["links"]["result"] == f"/v1/jobs/{job_id}/result"
    assert (await anyone.get(job["links"]["events"])).headers["content-type"].startswith("text/event-stream")
    result = await anyone.get(job["links"]["result"])
    assert (result.status_code, result.content) == (200, b'{"a":1}')


async def test_an_unfinished_job_carries_retry_after(anyone: httpx.AsyncClient, queue: FakeQueue, hold: Ending) -> None:
    queue.ending = hold
    job_id = await submitted(anyone)
    for path in ("", "/result", "/logs"):
        reply = await anyone.get(f"/v1/jobs/{job_id}{path}")
        assert reply.status_code == (202 if path == "/result" else 200)
        assert reply.headers["retry-after"] == "1"


async def test_a_poll_gets_the_job_again_only_after_a_change(
    anyone: httpx.AsyncClient, queue: FakeQueue, hold: Ending, end_of: Callable[..., JobResult]
) -> None:
    queue.ending = hold
    job_id = await submitted(anyone)
    path = f"/v1/jobs/{job_id}"
    first = await anyone.get(path)
    known = {"if-none-match": first.headers["etag"]}
    same = await anyone.get(path, headers=known)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
    queue.finish(end_of(queue.invocations[job_id], result=b"1"))
    ended = await anyone.get(f"{path}?wait=10", headers=known)
    assert (ended.status_code, ended.json()["status"]) == (200, "succeeded")
    assert ended.headers["etag"] != first.headers["etag"]


async def test_a_long_poll_answers_when_the_job_ends(
    api: Api, anyone: httpx.AsyncClient, queue: FakeQueue, hold: Ending, end_of: Callable[..., JobResult]
) -> None:
    queue.ending = hold
    job_id = await submitted(anyone)
    polling = asyncio.ensure_future(anyone.get(f"/v1/jobs/{job_id}", headers={"prefer": "wait=5"}))
    async with asyncio.timeout(HANG_S):
        while not api.invocations.waiting:  # noqa: ASYNC110 - nothing announces this condition
            await asyncio.sleep(0)
    queue.finish(end_of(queue.invocations[job_id], result=b"1"))
    reply = await polling
    assert (reply.json()["status"], reply.headers["preference-applied"]) == ("succeeded", "wait=5")


async def test_a_long_poll_that_is_over_shows_the_job_as_it_is(
    anyone: httpx.AsyncClient, queue: FakeQueue, hold: Ending
) -> None:
    queue.ending = hold
    reply = await anyone.get(f"/v1/jobs/{await submitted(anyone)}?wait=0.01")
    assert (reply.status_code, reply.json()["status"]) == (200, "queued")


async def test_a_job_that_ended_without_a_result_gives_the_reason(
    anyone: httpx.AsyncClient, queue: FakeQueue, raised: Ending
) -> None:
    queue.ending = raised
    job_id = await submitted(anyone)
    reply = await anyone.get(f"/v1/jobs/{job_id}/result")
    assert (reply.status_code, reply.json()["code"]) == (409, "no_result")
    assert (reply.json()["outcome"], reply.json()["error"]["errorType"]) == ("error", "ValueError")
    assert (await anyone.get(f"/v1/jobs/{job_id}")).json()["error"]["errorType"] == "ValueError"


async def test_a_result_whose_retention_is_over_is_gone(anyone: httpx.AsyncClient, queue: FakeQueue) -> None:
    job_id = await submitted(anyone)
    await anyone.get(f"/v1/jobs/{job_id}")

    async def lost(job_id: str) -> None:
        return None

    queue.result = lost
    reply = await anyone.get(f"/v1/jobs/{job_id}/result")
    assert (reply.status_code, reply.json()["code"]) == (410, "job_gone")


async def test_logs_are_text(anyone: httpx.AsyncClient, queue: FakeQueue) -> None:
    job_id = await submitted(anyone)
    queue.printed[job_id] = "grüße\n<script>".encode()
    reply = await anyone.get(f"/v1/jobs/{job_id}/logs")
    assert (reply.text, reply.headers["content-type"]) == ("grüße\n<script>", "text/plain; charset=utf-8")
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_cancelling_a_queued_job_is_202_and_cancelling_it_again_409(
    anyone: httpx.AsyncClient, queue: FakeQueue, hold: Ending
) -> None:
    queue.ending = hold
    job_id = await submitted(anyone)
    assert (await anyone.delete(f"/v1/jobs/{job_id}")).status_code == 202
    assert (await anyone.get(f"/v1/jobs/{job_id}")).json()["outcome"] == OutcomeKind.CANCELLED
    again = await anyone.delete(f"/v1/jobs/{job_id}")
    assert (again.status_code, again.json()["code"]) == (409, "job_final")


async def test_a_job_that_never_was_is_404(anyone: httpx.AsyncClient) -> None:
    for method, path in (("GET", ""), ("GET", "/result"), ("GET", "/logs"), ("DELETE", "")):
        reply = await anyone.request(method, f"/v1/jobs/5b0c8f2e-3c1d-4c43-9a51-6a0c5d6b7e88{path}")
        assert (reply.status_code, reply.json()["code"]) == (404, "job_not_found")
