"""The compose files as each engine's Compose reads them: without a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.containers.conftest import ENGINES
from tests.containers.engine import Engine
from tests.containers.stack import Stack

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("file", ["compose.yaml", "compose.worker.yaml"])
def test_the_compose_file_parses_without_a_warning(
    request: pytest.FixtureRequest, secrets: Path, file: str, name: str
) -> None:
    engine: Engine = request.getfixturevalue(name)
    assert "services:" in Stack(engine, "sandlot-test-config", file, secrets).compose("config")


@pytest.mark.parametrize("name", ENGINES)
def test_the_monitoring_profile_parses(request: pytest.FixtureRequest, secrets: Path, name: str) -> None:
    """Only read: no registry of images is asked for them here."""
    engine: Engine = request.getfixturevalue(name)
    text = Stack(engine, "sandlot-test-config", "compose.yaml", secrets).compose("--profile", "monitoring", "config")
    assert "prom/prometheus:v" in text
    assert "grafana/grafana:" in text
