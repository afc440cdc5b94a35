"""The profile `monitoring` of compose.yaml scrapes what is there, and Grafana finds its dashboard."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "deploy" / "monitoring"
COMPOSE = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
PROFILE = {name: service for name, service in SERVICES.items() if service.get("profiles") == ["monitoring"]}
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana" / "dashboards" / "sandlot.json").read_text())


def read(path: str) -> Any:
    return yaml.safe_load((FOLDER / path).read_text())


def test_the_profile_is_prometheus_and_grafana_of_pinned_versions() -> None:
    assert set(PROFILE) == {"prometheus", "grafana"}
    for service in PROFILE.values():
        assert re.search(r":v?\d+\.\d+\.\d+\}$", service["image"]), service["image"]


def test_the_profile_reads_existing_files_read_only() -> None:
    for service in PROFILE.values():
        for volume in service["volumes"]:
            source, _, target = volume.partition(":")
            if source.startswith("./"):
                assert (REPOSITORY / source).is_dir()
                assert target.endswith(":ro")


def test_prometheus_scrapes_the_services_where_they_listen_with_the_token() -> None:
    jobs = {job["job_name"]: job for job in read("prometheus.yml")["scrape_configs"]}
    assert set(jobs) == {"sandlot-api", "sandlot-worker"}
    ports = {"api": 8000, "worker": int(SERVICES["worker"]["environment"]["SANDLOT_METRICS_PORT"])}
    for name, job in jobs.items():
        (found,) = job["dns_sd_configs"]
        service = name.removeprefix("sandlot-")
        assert (found["names"], found["port"]) == ([service], ports[service])
        assert job["authorization"]["credentials_file"] == "/run/secrets/metrics_token"
        assert "metrics_token" in SERVICES[service]["secrets"]
    assert "metrics_token" in PROFILE["prometheus"]["secrets"]


def test_prometheus_sees_each_container_once() -> None:
    """With two networks in common a name may have two addresses, and all would be counted twice."""
    for service in ("api", "worker"):
        assert {*PROFILE["prometheus"]["networks"]} & {*SERVICES[service]["networks"]} == {"metrics"}


def test_prometheus_cannot_reach_valkey() -> None:
    assert not {*PROFILE["prometheus"]["networks"]} & {*SERVICES["valkey"]["networks"]}


def test_grafana_finds_the_dashboard_and_the_dashboard_its_source() -> None:
    (provider,) = read("grafana/provisioning/dashboards/sandlot.yml")["providers"]
    assert f"./deploy/monitoring/grafana/dashboards:{provider['options']['path']}:ro" in PROFILE["grafana"]["volumes"]
    (source,) = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    charts = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in charts} == {source["uid"]}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_alert_is_explained() -> None:
    text = (REPOSITORY / "docs" / "monitoring.md").read_text()
    (group,) = read("alerts.yml")["groups"]
    assert [rule["alert"] for rule in group["rules"] if f"| `{rule['alert']}` |" not in text] == []
