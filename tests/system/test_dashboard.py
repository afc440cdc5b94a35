"""A platform with traffic, scraped by a real Prometheus: no dashboard panel is empty."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.system.prometheus_server import EXAMPLES, PANELS, RULES, Prometheus, free_port, start_prometheus
from tests.system.up_process import Up
from tests.waiting import HANG_S, until

TOKEN = "0123456789abcdef-dashboard"
DATA_DEADLINE_S = HANG_S
HELLO = "# {number}\ndef handler(event, context):\n    return event\n"
FAILS = "def handler(event, context):\n    raise ValueError(event)\n"
SLOW = "import time\n\ndef handler(event, context):\n    time.sleep(event)\n"


def traffic(client: httpx.Client, number: int) -> None:
    """Cause a cold start, a warm call, a failure, and more jobs than there are slots."""
    for name, source in (("hello", HELLO.format(number=number)), ("fails", FAILS), ("slow", SLOW)):
        assert client.put(f"/v1/functions/{name}", json={"source": source}).status_code in (200, 201)
    for _ in range(2):
        assert client.post("/v1/functions/hello/invoke", json=number).json() == number
    assert client.post("/v1/functions/fails/invoke", json=number).status_code == 502
    for _ in range(4):
        reply = client.post("/v1/functions/slow/invoke", json=0.5, headers={"prefer": "respond-async"})
        assert reply.status_code == 202


def has_data(prometheus: Prometheus, promql: str) -> bool:
    """True if a panel would draw the series: a quantile of no calls is not a number."""
    return any(not math.isnan(float(series["value"][1])) for series in prometheus.query(promql))


def test_every_dashboard_query_has_data_and_every_other_query_parses(
    start_up: Callable[..., Up], tmp_path: Path
) -> None:
    port = free_port()
    metrics = {"SANDLOT_METRICS_PORT": str(port), "SANDLOT_METRICS_TOKEN": TOKEN, "SANDLOT_SLOTS": "2"}
    (tmp_path / "prometheus").mkdir()
    (tmp_path / "platform").mkdir()
    up = start_up(folder=tmp_path / "platform", env=metrics).ready()
    urls = (f"{up.url}/metrics", f"http://127.0.0.1:{port}/metrics")
    with start_prometheus(tmp_path / "prometheus", urls, TOKEN) as prometheus, up.client() as client:
        until(lambda: prometheus.ready(len(urls)))
        empty = dict.fromkeys(PANELS)
        rounds = 0

        def all_have_data() -> bool:
            nonlocal rounds
            rounds += 1
            traffic(client, rounds)
            for panel in list(empty):
                if has_data(prometheus, panel[1]):
                    del empty[panel]
            return not empty

        until(all_have_data, reason=lambda: f"no data after {rounds} rounds: {list(empty)}")
        for promql in (*RULES, *EXAMPLES):
            prometheus.query(promql)
