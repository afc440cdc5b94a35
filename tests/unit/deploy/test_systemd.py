"""The systemd units name settings that exist, hand over secrets as credentials, and leave a worker what its sandboxes need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sandlot.settings import Settings

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "systemd"
UNITS = {path.name: path.read_text() for path in sorted(FOLDER.glob("*.service"))}
WORKER = UNITS["sandlot-worker@.service"]


@pytest.mark.parametrize("unit", UNITS.values(), ids=list(UNITS))
def test_every_setting_exists_and_no_secret_is_one(unit: str) -> None:
    names = set(re.findall(r"SANDLOT_[A-Z_]+(?==)", unit))
    assert names <= {f"SANDLOT_{name.upper()}" for name in Settings.model_fields}
    assert not names & {"SANDLOT_KEY", "SANDLOT_SIGNING_KEY", "SANDLOT_REDIS_URL"}


@pytest.mark.parametrize("unit", UNITS.values(), ids=list(UNITS))
def test_every_credential_that_is_read_is_loaded(unit: str) -> None:
    assert set(re.findall(r"%d/(\S+)", unit)) == set(re.findall(r"^LoadCredential=([^:]+):", unit, re.MULTILINE))


def test_they_are_given_what_compose_gives_and_what_the_script_makes() -> None:
    compose = yaml.safe_load((FOLDER.parents[1] / "compose.yaml").read_text())["services"]
    made = (FOLDER.parent / "make-secrets.sh").read_text()
    for service, unit in (("api", UNITS["sandlot-api.service"]), ("worker", WORKER)):
        files = {Path(path).name for path in re.findall(r"^LoadCredential=[^:]+:(\S+)$", unit, re.MULTILINE)}
        assert {name.replace("-", "_").replace(".", "_") for name in files} == set(compose[service]["secrets"])
        assert all(f"put {name} " in made or name == f"redis-{service}.url" for name in files)


@pytest.mark.parametrize("unit", UNITS.values(), ids=list(UNITS))
def test_nobody_is_root_or_can_become_it(unit: str) -> None:
    for line in ("User=sandlot", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", "ProtectHome=yes"):  # fmt: skip
        assert f"\n{line}\n" in unit


def test_a_worker_keeps_what_strict_sandboxes_need_and_gets_its_cgroups() -> None:
    options = dict(line.split("=", 1) for line in WORKER.splitlines() if "=" in line and line[0] not in "#S")
    assert options["Delegate"] == "memory pids cpu"
    assert not options.keys() & {
        "RestrictNamespaces",
        "ProtectHostname",
        "ProtectControlGroups",
        "MemoryDenyWriteExecute",
    }
    refused = " ".join(re.findall(r"^SystemCallFilter=~(.*)$", WORKER, re.MULTILINE))
    assert not re.search(r"@mount|@privileged|\bunshare\b|\bclone", refused)


def test_a_worker_outlives_the_drain_it_is_given() -> None:
    (limit_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", WORKER, re.MULTILINE)
    assert int(limit_s) > Settings.model_fields["drain_s"].default
