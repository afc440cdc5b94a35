"""compose.yaml, compose.worker.yaml and the image keep the promises of docs/containers.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandlot.redis.acl import Role, rules
from sandlot.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[3]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / name).read_text())


COMPOSE = read("compose.yaml")
REMOTE = read("compose.worker.yaml")
SERVICES = [(f"{name} of {file}", service) for file, document in (("compose.yaml", COMPOSE), ("compose.worker.yaml", REMOTE)) for name, service in document["services"].items()]  # fmt: skip


PLACES = {"SANDLOT_OTLP_URL", "SANDLOT_PYTHON_INDEX_URL", "SANDLOT_NPM_REGISTRY_URL"}
"""Addresses without a password."""


def image_of(service: dict[str, Any]) -> str:
    """The publisher of the image that is used by default."""
    return re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", service["image"]).partition("/")[0]


@pytest.mark.parametrize("service", [service for _, service in SERVICES], ids=[name for name, _ in SERVICES])
def test_every_container_is_hardened_and_bounded(service: dict[str, Any]) -> None:
    # Those that are not ours run as the user of their image, who is not root either.
    assert service["user"] == {"prom": "65534:65534", "grafana": "472:0"}.get(image_of(service), "10001:10001")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges=true" in service["security_opt"]
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "container_name"}


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert published.pop("prometheus") == ["${SANDLOT_PROMETHEUS_LISTEN:-127.0.0.1:9090}:9090"]
    assert published.pop("grafana") == ["${SANDLOT_GRAFANA_LISTEN:-127.0.0.1:3000}:3000"]
    assert published == {"api": ["${SANDLOT_LISTEN:-127.0.0.1:8000}:8000"]}
    assert "ports" not in REMOTE["services"]["worker"]


def test_each_container_is_on_the_networks_it_needs_and_valkey_on_the_internal_one_alone() -> None:
    assert COMPOSE["networks"]["queue"] == COMPOSE["networks"]["metrics"] == {"internal": True}
    networks = {name: set(service["networks"]) for name, service in COMPOSE["services"].items()}
    assert networks == {
        "valkey": {"queue"},
        "api": {"front", "queue", "metrics"},
        "worker": {"queue", "out", "metrics"},
        "prometheus": {"monitoring", "metrics"},
        "grafana": {"monitoring"},
    }


def test_workers_insist_on_strict_sandboxes_and_on_our_profile() -> None:
    for document in (COMPOSE, REMOTE):
        worker = document["services"]["worker"]
        assert worker["environment"]["SANDLOT_SANDBOX"] == "strict"
        assert "seccomp=./deploy/worker-seccomp.json" in worker["security_opt"]


def test_no_secret_is_in_an_environment_and_every_one_is_a_file() -> None:
    for document in (COMPOSE, REMOTE):
        assert all(set(secret) == {"file"} for secret in document["secrets"].values())
        for service in document["services"].values():
            assert set(service.get("secrets", ())) <= set(document["secrets"])
            for name in {*service.get("environment", {})} - PLACES:
                assert not re.search(r"KEY$|URL$|PASSWORD$|TOKEN$", name), name


def test_a_worker_has_no_api_key_and_a_user_of_its_own() -> None:
    assert set(COMPOSE["services"]["worker"]["secrets"]) == {
        "redis_worker_url", "signing_key", "metrics_token", "callback_secret",
    }  # fmt: skip
    assert COMPOSE["services"]["valkey"]["secrets"] == ["valkey_acl"]


def test_every_setting_in_an_environment_exists() -> None:
    known = {f"SANDLOT_{name.upper()}" for name in Settings.model_fields}
    for _, service in SERVICES:
        assert {name for name in service.get("environment", {}) if not name.startswith("GF_")} <= known


def test_no_index_of_packages_is_reached_that_was_not_named() -> None:
    for document in (COMPOSE, REMOTE):
        environment = document["services"]["worker"]["environment"]
        assert environment["SANDLOT_PYTHON_INDEX_URL"] == "${SANDLOT_PYTHON_INDEX_URL:-off}"
        assert environment["SANDLOT_NPM_REGISTRY_URL"] == "${SANDLOT_NPM_REGISTRY_URL:-off}"


def test_containers_outlive_the_drain_they_are_given() -> None:
    drain_s = Settings.model_fields["drain_s"].default
    assert int(COMPOSE["services"]["worker"]["stop_grace_period"].removesuffix("s")) > drain_s


def test_a_worker_elsewhere_is_the_same_worker() -> None:
    """The second file repeats the service, since `extends` would drag the local Valkey along."""
    here, there = COMPOSE["services"]["worker"], dict(REMOTE["services"]["worker"])
    assert there.pop("build") == "."
    assert (there.pop("networks"), there.pop("secrets")) == (["out"], [*here["secrets"], "redis_ca"])
    own = dict(here["environment"])
    assert own.pop("SANDLOT_INSECURE_REDIS") == "1", "here on a network of their own, there over TLS or not at all"
    same = {name: value for name, value in here.items() if name not in ("networks", "secrets", "depends_on")}
    assert there == same | {"environment": own}


def test_valkey_keeps_what_it_accepted() -> None:
    lines = (REPOSITORY / "deploy" / "valkey.conf").read_text().splitlines()
    options = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    assert options["appendonly"] == "yes"
    assert options["maxmemory-policy"] == "noeviction"
    assert options["stream-node-max-bytes"] == "256"
    assert options["aclfile"] == "/run/secrets/valkey_acl"
    valkey = COMPOSE["services"]["valkey"]
    assert options["maxmemory"] == "1gb"
    assert valkey["command"][1:] == ["--maxmemory", "${SANDLOT_VALKEY_MAXMEMORY:-1gb}"]
    assert valkey["mem_limit"] == "${SANDLOT_VALKEY_MEMORY:-2g}", "room for a rewrite of the append-only file"
    assert options["dir"] == COMPOSE["services"]["valkey"]["volumes"][0].partition(":")[2]


@pytest.mark.parametrize("role", Role)
def test_the_users_that_are_made_for_valkey_have_the_rights_of_their_role(role: Role) -> None:
    made = (REPOSITORY / "deploy" / "make-secrets.sh").read_text()
    line = f'        {role}) echo "{rules(role)}" ;;\n'
    assert line in made, "write this into deploy/make-secrets.sh"


def test_the_image_runs_as_a_numbered_user_says_how_it_is_and_holds_no_build_tool() -> None:
    result = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", result, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", result, re.MULTILINE)
    assert "org.opencontainers.image.licenses" in result
    assert "apt-get" not in result
    assert "uv " not in result
    assert DOCKERFILE.count("uv sync") == DOCKERFILE.count("--frozen") - 1, "every install is what uv.lock names"


def test_the_base_of_the_image_is_pinned() -> None:
    assert re.search(r"^ARG BASE=\S+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^ARG UV_VERSION=\d+\.\d+\.\d+$", DOCKERFILE, re.MULTILINE)
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert {base for base in bases if base not in ("base", "build", "bill")} == {"${BASE}", "scratch"}, bases


def test_nothing_gets_into_the_image_that_was_not_named() -> None:
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    copied = set(re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", DOCKERFILE, re.MULTILINE))
    named = {line[1:] for line in lines if line.startswith("!")}
    assert not {
        path for path in " ".join(copied).split() if path.split("/")[0] not in named and not path.startswith("/")
    }
    assert "deploy/*" in lines, "deploy/secrets/ must not be in a layer"
