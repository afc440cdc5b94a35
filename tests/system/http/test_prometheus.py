"""The dashboard, the alerts and the documentation name what a real scrape has."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.system.http.conftest import Stack
from tests.system.prometheus_server import EXAMPLES, FOLDER, PANELS, REPOSITORY, RULES
from tests.waiting import HANG_S

TOKEN = "0123456789abcdef-prometheus"
NAME = re.compile(r"\b(?:sandlot|gateway)_[a-z_]+\b")
SUFFIX = re.compile(r"_(?:bucket|count|sum)$")


@pytest.fixture(scope="module")
def urls(stack: Stack) -> Iterator[tuple[str, str]]:
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
    texts = [httpx.get(url, headers=says, timeout=HANG_S, trust_env=False).text for url in urls]
    return set(re.findall(r"(?m)^# TYPE (\S+)", "\n".join(texts)))


def unknown(text: str, families: set[str]) -> set[str]:
    return {name for name in NAME.findall(text) if name not in families and SUFFIX.sub("", name) not in families}


@pytest.mark.parametrize("promql", [*(promql for _, promql in PANELS), *RULES, *EXAMPLES])
def test_every_name_in_a_query_is_in_a_scrape(promql: str, families: set[str]) -> None:
    assert NAME.search(promql) or "up{" in promql
    assert unknown(promql, families) == set()


def test_every_name_in_a_scrape_is_documented_and_vice_versa(families: set[str]) -> None:
    text = (REPOSITORY / "docs" / "monitoring.md").read_text()
    documented = set(re.findall(r"`((?:sandlot|gateway)_[a-z_]+)`", text))
    assert documented == families


def test_the_alerting_rules_pass_their_own_tests() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool (Debian: apt-get install prometheus)")
    for words in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        done = subprocess.run(
            [promtool, *words], cwd=FOLDER, capture_output=True, text=True, timeout=HANG_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
