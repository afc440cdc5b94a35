"""A real Prometheus with the shipped configuration, if the program is installed.

On Debian: apt-get install prometheus.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.waiting import HANG_S

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "deploy" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana" / "dashboards" / "sandlot.json").read_text())
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text())

PANELS = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
RULES = [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]
EXAMPLES = re.findall(r"(?ms)^```promql\n(.*?)^```$", (REPOSITORY / "docs" / "monitoring.md").read_text())


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Return the series of a query now, as Grafana would ask: over a minute, all functions."""
        text = promql.replace("$__rate_interval", "1m").replace("$function", ".*")
        reply = httpx.get(f"{self.url}/api/v1/query", params={"query": text}, timeout=HANG_S, trust_env=False)
        assert reply.status_code == 200, reply.text
        return list(reply.json()["data"]["result"])

    def ready(self, targets: int) -> bool:
        """True once it has scraped that many targets."""
        try:
            up = httpx.get(f"{self.url}/-/ready", timeout=HANG_S, trust_env=False).status_code == 200
            return up and len(self.query("up == 1")) == targets
        except httpx.TransportError:
            return False


@contextmanager
def start_prometheus(folder: Path, urls: Sequence[str], token: str) -> Iterator[Prometheus]:
    """Start Prometheus as compose.yaml does, but with other targets and token file, each second.

    Args:
        urls: of /metrics, one for each job of the shipped configuration, in its order.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("no prometheus (Debian: apt-get install prometheus)")
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (folder / "token").write_text(token + "\n")
    for job, url in zip(configuration["scrape_configs"], urls, strict=True):
        job["authorization"]["credentials_file"] = str(folder / "token")
        job.pop("dns_sd_configs")
        job.pop("file_sd_configs", None)
        job["static_configs"] = [{"targets": [httpx.URL(url).netloc.decode()]}]
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shutil.copy(FOLDER / "alerts.yml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address={address}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
