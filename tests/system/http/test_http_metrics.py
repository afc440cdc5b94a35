"""/metrics of a real API with several processes and of a real worker say what really happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.system.http.conftest import Part, Stack
from tests.waiting import HANG_S, until

TOKEN = "0123456789abcdef-metrics"
Samples = dict[str, list[tuple[dict[str, str], float]]]


def scrape(url: str, token: str = TOKEN) -> Samples:
    reply = httpx.get(url, headers={"authorization": f"Bearer {token}"}, timeout=HANG_S, trust_env=False)
    assert reply.status_code == 200, reply.text
    found: Samples = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(samples: Samples, name: str, **labels: str) -> float:
    return sum(value for given, value in samples.get(name, []) if labels.items() <= given.items())


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[Part]:
    """Three processes behind one port."""
    part, url = stack.start_api(SANDLOT_API_PROCESSES="3", SANDLOT_METRICS_TOKEN=TOKEN)
    part.url = url
    yield part
    part.stop()


@pytest.fixture(scope="module")
def api_url(api: Part) -> str:
    return str(api.url)


@pytest.fixture(scope="module")
def worker_url(stack: Stack) -> Iterator[str]:
    """Where a second worker, the only one with the tag `meter`, is scraped."""
    part = stack.start("worker", SANDLOT_TAGS="meter", SANDLOT_METRICS_PORT="0", SANDLOT_METRICS_TOKEN=TOKEN)
    url = part.event("metrics")["url"]
    part.event("worker started")
    yield url
    part.stop()


def deploy_tagged(admin: httpx.Client, name: str, source: str) -> None:
    manifest = {"visibility": "public", "tags": ["meter"], "timeout": "500ms"}
    body = {"source": source, "filename": f"{name}.py", "manifest": manifest}
    assert admin.put(f"/v1/functions/{name}", json=body).status_code in (200, 201)


def test_one_scrape_covers_all_processes(api_url: str) -> None:
    def processes_that_have_answered() -> int:
        # A connection each, so that the kernel gives them to whichever process is free.
        assert (
            httpx.post(f"{api_url}/v1/functions/echo/invoke", json=1, timeout=HANG_S, trust_env=False).status_code
            == 200
        )
        counts.append(1)
        answered = scrape(f"{api_url}/metrics").get("gateway_functions_seconds_count", [])
        return len({labels["process"] for labels, _ in answered})

    counts: list[int] = []
    # The port answers as soon as one of the three listens.
    until(lambda: scrape(f"{api_url}/metrics")["sandlot_api_processes"] == [({}, 3)])
    until(lambda: processes_that_have_answered() >= 2)
    samples = scrape(f"{api_url}/metrics")
    assert samples["sandlot_api_processes"] == [({}, 3)]
    assert total(samples, "gateway_function_invocation_total", function_name="echo", code="200") == len(counts)
    assert total(samples, "gateway_functions_seconds_count", function_name="echo") == len(counts)
    assert {labels["process"] for labels, _ in samples["sandlot_waiting_callers"]} == {"0", "1", "2"}
    assert total(samples, "sandlot_redis_up") == 1


def test_a_worker_exports_outcomes_and_stage_durations(admin: httpx.Client, worker_url: str) -> None:
    deploy_tagged(admin, "metered", "def handler(event, context):\n    while event:\n        pass\n    return event\n")
    for _ in range(3):
        assert admin.post("/v1/functions/metered/invoke", json=0).status_code == 200
    assert admin.post("/v1/functions/metered/invoke", json=1).status_code == 504

    def counted() -> bool:
        # The caller learns of an outcome before the worker reads the reply to its recording step.
        return total(scrape(worker_url), "sandlot_invocations_total", function="metered") == 4

    until(counted)
    samples = scrape(worker_url)
    assert total(samples, "sandlot_invocations_total", function="metered", version="1", outcome="ok") == 3
    assert total(samples, "sandlot_invocations_total", function="metered", outcome="timeout") == 1
    for stage in ("queue_wait", "run", "invocation"):
        assert total(samples, f"sandlot_{stage}_seconds_count", function="metered") == 4
    assert total(samples, "sandlot_run_seconds_sum", function="metered") >= 0.5
    assert total(samples, "sandlot_cold_starts_total", function="metered") >= 1
    assert total(samples, "sandlot_boot_seconds_sum", function="metered") > 0
    assert total(samples, "sandlot_redis_round_trip_seconds_count") > 0
    assert total(samples, "sandlot_slots") >= 4


def test_a_worker_serves_one_path_and_only_with_the_token(worker_url: str) -> None:
    assert httpx.get(worker_url, trust_env=False).status_code == 401
    assert httpx.get(worker_url, headers={"authorization": "Bearer wrong"}, trust_env=False).status_code == 401
    says = {"authorization": f"Bearer {TOKEN}"}
    assert httpx.get(worker_url.replace("/metrics", "/"), headers=says, trust_env=False).status_code == 404
    assert httpx.post(worker_url, headers=says, trust_env=False).status_code == 405


def test_queue_and_worker_metrics_are_exported_while_jobs_wait(
    admin: httpx.Client, api_url: str, worker_url: str
) -> None:
    """One call at a time by the function's own cap, so the others wait."""
    manifest = {"visibility": "public", "concurrency": 1, "timeout": "20s"}
    source = "import time\n\ndef handler(event, context):\n    time.sleep(event)\n"
    body = {"source": source, "filename": "narrow.py", "manifest": manifest}
    assert admin.put("/v1/functions/narrow", json=body).status_code in (200, 201)
    jobs = [
        admin.post("/v1/functions/narrow/invoke", json=20, headers={"prefer": "respond-async"}).json()["id"]
        for _ in range(4)
    ]

    def waiting() -> bool:
        samples = scrape(f"{api_url}/metrics")
        return (
            total(samples, "sandlot_queue_depth", function="narrow") == 3
            and total(samples, "sandlot_queue_running", function="narrow") == 1
            and total(samples, "sandlot_queue_oldest_seconds", function="narrow") > 0
            and total(samples, "sandlot_placement_queued", placement="python") >= 3
            and total(samples, "sandlot_placement_busy_slots", placement="python") >= 1
            and total(samples, "sandlot_placement_slots", placement="python") >= 4
            and total(samples, "sandlot_placement_workers", placement="python,meter") == 1
        )

    until(waiting)
    for job in reversed(jobs):
        admin.delete(f"/v1/jobs/{job}")


def test_the_replacement_of_a_killed_process_is_counted_under_the_same_number(api: Part) -> None:
    children = Path(f"/proc/{api.process.pid}/task/{api.process.pid}/children")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    api.event("process died")

    def all_of_them() -> bool:
        try:
            samples = scrape(f"{api.url}/metrics")
        except httpx.TransportError:
            return False  # a connection that the killed one had taken
        return {labels["process"] for labels, _ in samples["sandlot_waiting_callers"]} == {"0", "1", "2"}

    until(all_of_them)
