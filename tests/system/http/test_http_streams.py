"""Jobs followed over real HTTP, while they run, from where one was."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sandlot.client import Client
from sandlot.client.transport import StreamEvent, read_events
from sandlot.errors import JobFinal, JobNotFound
from tests.system.http.conftest import Stack
from tests.waiting import HANG_S


def events(client: httpx.Client, path: str, place: str = "") -> Iterator[StreamEvent]:
    headers = {"accept": "text/event-stream", **({"last-event-id": place} if place else {})}
    with client.stream("GET", path, headers=headers) as reply:
        assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-cache", "no")
        yield from read_events(reply.iter_lines())


def submit(client: httpx.Client, name: str, event: Any = None, headers: dict[str, str] | None = None) -> str:
    reply = client.post(f"/v1/functions/{name}/invoke?async=true", content=json.dumps(event), headers=headers)
    return str(reply.headers["location"])


def text_of(found: list[StreamEvent]) -> str:
    return "".join(json.loads(event.data)["text"] for event in found if event.name == "log")


def numbers(text: str) -> list[str]:
    return [str(number) for number in range(len(text.split()))]


@pytest.mark.slow
def test_log_lines_arrive_while_the_function_runs(anyone: httpx.Client) -> None:
    job = submit(anyone, "ticks")
    seen = []
    for event in events(anyone, job + "/events"):
        seen.append(event)
        if (
            event.name == "log"
            and len(text_of(seen).split()) > 3
            and not json.loads(event.data)["text"].startswith("0")
        ):
            assert anyone.delete(job).status_code in (202, 409)
    assert [event.name for event in seen if event.name != "log"][-1] == "result"
    assert text_of(seen).split() == numbers(text_of(seen))
    assert text_of(seen) == anyone.get(job + "/logs").text
    statuses = [json.loads(event.data)["status"] for event in seen if event.name == "status"]
    assert statuses[-2:] == ["running", "cancelled"]


def test_a_broken_stream_resumes_where_it_stopped(anyone: httpx.Client) -> None:
    job = submit(anyone, "ticks")
    first = []
    for event in events(anyone, job + "/events"):
        first.append(event)
        if event.name == "log":
            break
    rest = []
    for event in events(anyone, job + "/events", first[-1].last_event_id):
        rest.append(event)
        if event.name == "log":
            anyone.delete(job)
    text = text_of(first) + text_of(rest)
    assert text.split() == numbers(text)
    assert text == anyone.get(job + "/logs").text
    assert rest[-1].name == "result"
    over = anyone.get(job + "/events", headers={"last-event-id": rest[-1].last_event_id})
    assert (over.status_code, over.content) == (204, b"")


def test_the_stream_of_an_ended_job_is_complete_at_once(anyone: httpx.Client) -> None:
    job = submit(anyone, "prints", 50)
    anyone.get(job + "?wait=20")
    found = list(events(anyone, job + "/events"))
    assert [event.name for event in found] == ["log", "status", "result"]
    assert text_of(found) == anyone.get(job + "/logs").text
    logs = list(events(anyone, job + "/logs"))
    assert [event.name for event in logs] == ["log", "end"]


def test_the_stream_of_a_failed_job_ends_with_its_outcome(anyone: httpx.Client) -> None:
    found = list(events(anyone, submit(anyone, "fails", "luck") + "/events"))
    last = json.loads(found[-1].data)
    assert (found[-1].name, last["status"], last["error"]["errorMessage"]) == ("result", "failed", "no luck")


@pytest.mark.parametrize("place", ["x", "running.1"])
def test_an_id_of_another_stream_is_refused(anyone: httpx.Client, place: str) -> None:
    job = submit(anyone, "echo", 1)
    reply = anyone.get(job + "/events", headers={"last-event-id": place})
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")


def test_a_job_cannot_be_followed_with_another_key(admin: httpx.Client, anyone: httpx.Client) -> None:
    job = submit(admin, "private")
    assert anyone.get(job + "/events").status_code == 404
    assert list(events(admin, job + "/events"))[-1].name == "result"


def test_a_client_that_never_reads_does_not_slow_other_followers(anyone: httpx.Client, stack: Stack) -> None:
    job = submit(anyone, "ticks")
    with stack.client(key=False) as deaf, deaf.stream("GET", job + "/events") as unread:
        assert unread.status_code == 200
        streams = [events(anyone, job + "/events") for _ in range(8)]
        for stream in streams:
            next(event for event in stream if event.name == "log")
        anyone.delete(job)
        for stream in streams:
            assert list(stream)[-1].name == "result"


@pytest.mark.slow
def test_hundreds_of_followers_of_a_silent_job_all_see_its_end(anyone: httpx.Client, stack: Stack) -> None:
    job = submit(anyone, "sleeps", 1, {"x-sandlot-delay": "5m"})
    with httpx.Client(base_url=stack.url, timeout=HANG_S, trust_env=False, limits=httpx.Limits()) as many:
        streams = [events(many, job + "/events") for _ in range(200)]
        assert {next(stream).name for stream in streams} == {"status"}
        assert anyone.delete(job).status_code == 202
        for stream in streams:
            last = list(stream)[-1]
            assert (last.name, json.loads(last.data)["status"]) == ("result", "cancelled")


@pytest.mark.slow
def test_a_stopping_api_ends_its_streams_and_another_resumes_them(anyone: httpx.Client, stack: Stack) -> None:
    api, url = stack.start_api(SANDLOT_SHUTDOWN_GRACE_S="2")
    job = submit(anyone, "sleeps", 1, {"x-sandlot-delay": "5m"})
    with stack.client(key=False, url=url) as client:
        stream = events(client, job + "/events")
        first = next(stream)
        api.process.terminate()
        assert list(stream) == []
        assert api.stop() == 0
    rest = events(anyone, job + "/events", first.last_event_id)
    assert anyone.delete(job).status_code == 202
    assert [event.name for event in rest] == ["status", "result"]


def test_the_client_follows_a_job(stack: Stack) -> None:
    with Client(stack.url, stack.key) as client:
        job_id = client.submit("ticks")["id"]
        printed, last = "", ("", {})
        for name, document in client.follow(job_id):
            last = (name, document)
            if name == "log":
                printed += document["text"]
                with contextlib.suppress(JobFinal):
                    client.cancel(job_id)
        assert (last[0], last[1]["status"], printed) == ("result", "cancelled", client.logs(job_id))
        with pytest.raises(JobNotFound):
            list(client.follow("01a214f1-9968-71a8-96a5-af746b9b4987"))
