"""GET /metrics: who may read it, and what it says."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.app import Api
from api.metrics import SiblingMetrics
from sandlot.api_keys import KeyStore, Scope
from sandlot.jobs.stats import QueueLoad, QueueLoads, WorkerLoad
from sandlot.metrics import gauge, single
from sandlot.settings import Settings
from tests.unit.api.conftest import FakeQueue

TOKEN = "a token for metrics alone"
SAYS_TOKEN = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def settings() -> Settings:
    return Settings(metrics_token=TOKEN, metrics_functions=2, _env_file=None)  # type: ignore[call-arg]


@pytest.fixture
async def prometheus(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(api.asgi), base_url="http://sandlot.test", headers=SAYS_TOKEN
    ) as client:
        yield client


async def scrape(client: httpx.AsyncClient) -> dict[str, list[tuple[dict[str, str], float]]]:
    reply = await client.get("/metrics")
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


async def test_the_token_reads_metrics_and_nothing_else(queue: FakeQueue, prometheus: httpx.AsyncClient) -> None:
    queue.load_now = QueueLoads(0, 0, 0, 0, [], [], [])
    assert (await prometheus.get("/metrics")).status_code == 200
    assert (await prometheus.get("/v1/status")).status_code == 200
    assert (await prometheus.get("/v1/functions")).status_code == 401
    assert (await prometheus.post("/v1/functions/secret/invoke")).status_code == 401


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer wrong", f"Basic {TOKEN}"])
async def test_another_token_reads_nothing(anyone: httpx.AsyncClient, authorization: str) -> None:
    assert (await anyone.get("/metrics", headers={"authorization": authorization})).status_code == 401


async def test_a_key_for_some_functions_does_not_see_the_names_of_all(
    anyone: httpx.AsyncClient, keys: KeyStore, queue: FakeQueue
) -> None:
    queue.load_now = QueueLoads(0, 0, 0, 0, [], [], [])
    for prefix, status in (("", 200), ("hel", 403)):
        token, _ = await keys.create({Scope.READ}, prefix=prefix)
        for path in ("/metrics", "/v1/status"):
            reply = await anyone.get(path, headers={"authorization": f"Bearer {token}"})
            assert reply.status_code == status


async def test_calls_are_counted_by_function_and_status_and_under_the_names_of_openfaas(
    anyone: httpx.AsyncClient, prometheus: httpx.AsyncClient
) -> None:
    await anyone.post("/v1/functions/hello/invoke", json=1)
    await anyone.post("/fn/hello", json=1)
    await anyone.post("/hello", content=b"{")
    await anyone.post("/v1/functions/hello/invoke", content=b"{")
    found = await scrape(prometheus)
    codes = {labels["code"]: value for labels, value in found["gateway_function_invocation_total"]}
    assert sum(codes.values()) == 4
    assert codes["400"] == 1
    assert found["gateway_functions_seconds_count"] == [({"function_name": "hello"}, 4)]
    routes = {(labels["route"], labels["method"]) for labels, _ in found["sandlot_http_requests_total"]}
    assert {("/v1/functions/{name}/invoke", "POST"), ("/fn/{name}", "POST"), ("/{name}", "POST")} <= routes


async def test_a_name_that_a_caller_invents_is_not_a_label(
    anyone: httpx.AsyncClient, prometheus: httpx.AsyncClient
) -> None:
    for path in ("/fn/no-such", "/no-such-either", "/a/b/c", "/v1/functions/no-such/invoke", "/v1/jobs/no-such"):
        await anyone.post(path)
    text = (await prometheus.get("/metrics")).text
    assert "no-such" not in text
    assert "a/b/c" not in text


async def test_the_longest_queues_have_labels_of_their_own_and_placements_have_all(
    queue: FakeQueue, prometheus: httpx.AsyncClient
) -> None:
    queues = [
        QueueLoad(name, "python", queued, 1, queued / 10) for name, queued in (("a", 1), ("b", 30), ("c", 20), ("d", 2))
    ]
    workers = [WorkerLoad("one", ["node", "python"], 8, 8), WorkerLoad("two", ["python"], 4, 1)]
    queue.load_now = QueueLoads(53, 4, 7, 99, ["node", "python"], queues, workers)
    found = await scrape(prometheus)
    assert {labels["function"]: value for labels, value in found["sandlot_queue_depth"]} == {
        "b": 30,
        "c": 20,
        "other": 3,
    }
    assert ({"function": "other"}, 0.2) in found["sandlot_queue_oldest_seconds"]
    assert ({"placement": "python"}, 53) in found["sandlot_placement_queued"]
    assert ({"placement": "node"}, 0) in found["sandlot_placement_queued"]
    assert ({"placement": "python"}, 3.0) in found["sandlot_placement_oldest_seconds"]
    assert ({"placement": "python"}, 12) in found["sandlot_placement_slots"]
    assert ({"placement": "node"}, 8) in found["sandlot_placement_busy_slots"]
    assert ({"placement": "python"}, 2) in found["sandlot_placement_workers"]
    assert (found["sandlot_redis_up"], found["sandlot_jobs_scheduled"]) == ([({}, 1)], [({}, 7)])


async def test_without_redis_the_other_metrics_are_still_exported(prometheus: httpx.AsyncClient) -> None:
    found = await scrape(prometheus)
    assert found["sandlot_redis_up"] == [({}, 0)]
    assert "sandlot_queue_depth" not in found
    assert "sandlot_waiting_callers" in found


async def test_processes_that_share_a_port_tell_each_other_and_one_that_is_gone_is_left_out(tmp_path: Path) -> None:
    def peer(number: str) -> SiblingMetrics:
        return SiblingMetrics(tmp_path, number, lambda: [gauge("number", "N.", (), single(float(number)))])

    one, two = peer("1"), peer("2")
    (tmp_path / "3").touch()  # left by a process that was killed: nobody listens there
    async with one.open():
        async with two.open():
            told = await two.families()
            assert {number: families[0].samples[0].value for number, families in told.items()} == {"1": 1, "2": 2}
        assert list(await one.families()) == ["1"]


async def test_a_process_that_hangs_does_not_hold_up_the_scrape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.metrics._SIBLING_DEADLINE_S", 0.01)
    with socket.socket(socket.AF_UNIX) as mute:  # takes the connection, and nobody reads it
        mute.bind(str(tmp_path / "2"))
        mute.listen()
        assert list(await SiblingMetrics(tmp_path, "1", list).families()) == ["1"]
