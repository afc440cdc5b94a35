"""The dashboard, the alerts and the documentation name what a real scrape has; a real Prometheus reads it all, where there is one."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "deploy" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana" / "dashboards" / "sandlot.json").read_text())
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text())
TOKEN = "0123456789abcdef-prometheus"
NAME = re.compile(r"\b(?:sandlot|gateway)_[a-z_]+\b")
SUFFIX = re.compile(r"_(?:bucket|count|sum)$")

PROMQL = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
RULES = [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]
EXAMPLES = re.findall(r"(?ms)^```promql\n(.*?)^```$", (REPOSITORY / "docs" / "monitoring.md").read_text())


@pytest.fixture(scope="module")
def urls(stack: Any) -> Iterator[tuple[str, str]]:
    """An API and a worker that a Prometheus with the token may scrape."""
    api, url = stack.start_api(SANDLOT_METRICS_TOKEN=TOKEN)
    worker = stack.start("worker", SANDLOT_METRICS_PORT="0", SANDLOT_METRICS_TOKEN=TOKEN)
    metrics = worker.event("metrics")["url"]
    worker.event("worker started")
    yield f"{url}/metrics", metrics
    worker.stop()
    api.stop()


@pytest.fixture(scope="module")
def families(urls: tuple[str, str]) -> set[str]:
    """The names in a scrape of both; a family without a sample yet has its heading."""
    says = {"authorization": f"Bearer {TOKEN}"}
    texts = [httpx.get(url, headers=says, timeout=30, trust_env=False).text for url in urls]
    return set(re.findall(r"(?m)^# TYPE (\S+)", "\n".join(texts)))


def unknown(text: str, families: set[str]) -> set[str]:
    return {name for name in NAME.findall(text) if name not in families and SUFFIX.sub("", name) not in families}


@pytest.mark.parametrize("promql", [*PROMQL, *RULES, *EXAMPLES])
def test_every_name_in_a_query_is_in_a_scrape(promql: str, families: set[str]) -> None:
    assert NAME.search(promql) or "up{" in promql
    assert unknown(promql, families) == set()


def test_every_name_in_a_scrape_is_documented_and_the_other_way_round(families: set[str]) -> None:
    text = (REPOSITORY / "docs" / "monitoring.md").read_text()
    documented = set(re.findall(r"`((?:sandlot|gateway)_[a-z_]+)`", text))
    assert documented == families


def test_the_rules_do_what_their_own_tests_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool (Debian: apt-get install prometheus)")
    for words in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        done = subprocess.run([promtool, *words], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_real_prometheus_scrapes_both_and_answers_every_query(
    urls: tuple[str, str],
    anyone: httpx.Client,
    tmp_path: Path,
    wait_until: Callable[[Callable[[], object]], None],
) -> None:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("no prometheus (Debian: apt-get install prometheus)")
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (tmp_path / "token").write_text(TOKEN + "\n")
    for job, url in zip(configuration["scrape_configs"], urls, strict=True):
        # The addresses and the place of the token are this test's, everything else is what is shipped.
        job["authorization"]["credentials_file"] = str(tmp_path / "token")
        job.pop("dns_sd_configs")
        job.pop("file_sd_configs", None)
        job["static_configs"] = [{"targets": [httpx.URL(url).netloc.decode()]}]
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [binary, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb", f"--web.listen-address={address}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def query(promql: str) -> list[dict[str, Any]]:
        reply = httpx.get(f"http://{address}/api/v1/query", params={"query": promql}, timeout=30, trust_env=False)
        assert reply.status_code == 200, reply.text
        return list(reply.json()["data"]["result"])

    def scraped() -> bool:
        try:
            ready = httpx.get(f"http://{address}/-/ready", trust_env=False).status_code == 200
            return ready and len(query("up == 1")) == 2
        except httpx.TransportError:
            return False

    try:
        wait_until(scraped)
        for _ in range(5):
            assert anyone.post("/v1/functions/echo/invoke", json=1).status_code == 200
        for promql in (*PROMQL, *RULES, *EXAMPLES):
            query(promql.replace("$__rate_interval", "1m").replace("$function", ".*"))
        wait_until(lambda: query("sandlot_redis_round_trip_seconds_count > 0"))
    finally:
        process.terminate()
        process.wait(30)
