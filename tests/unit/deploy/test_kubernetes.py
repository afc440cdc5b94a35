"""The Kubernetes manifests keep the promises that compose.yaml keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.operations import OPERATION_AT
from api.routes.system import status_document
from sandlot.jobs.stats import QueueLoad, QueueLoads
from sandlot.models import Runtime
from sandlot.redis.acl import Role
from sandlot.settings import Settings

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes"
DOCUMENTS = {file.name: list(yaml.safe_load_all(file.read_text())) for file in sorted(FOLDER.glob("*.yaml"))}
PODS: dict[str, dict[str, Any]] = {
    document["metadata"]["name"]: document["spec"]["template"]["spec"]
    for documents in DOCUMENTS.values()
    for document in documents
    if document["kind"] in ("Deployment", "StatefulSet")
}


@pytest.mark.parametrize("pod", PODS.values(), ids=list(PODS))
def test_every_pod_is_hardened_and_bounded(pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert "memory" in container["resources"]["limits"]
        assert container.get("readinessProbe") or container.get("livenessProbe")


def test_workers_insist_on_strict_sandboxes_and_on_our_profile() -> None:
    worker = PODS["sandlot-worker"]
    assert worker["securityContext"]["seccompProfile"] == {
        "type": "Localhost",
        "localhostProfile": "sandlot/worker-seccomp.json",
    }
    assert {"name": "SANDLOT_SANDBOX", "value": "strict"} in worker["containers"][0]["env"]


def test_no_secret_is_in_an_environment_and_every_setting_exists() -> None:
    known = {f"SANDLOT_{name.upper()}" for name in Settings.model_fields}
    for pod in PODS.values():
        for container in pod["containers"]:
            names = {entry["name"] for entry in container.get("env", [])}
            assert names <= known
            assert not names & {"SANDLOT_KEY", "SANDLOT_SIGNING_KEY", "SANDLOT_REDIS_URL"}
            assert all("valueFrom" not in entry for entry in container.get("env", []))


def test_no_index_of_packages_is_reached_that_was_not_named() -> None:
    environment = {entry["name"]: entry["value"] for entry in PODS["sandlot-worker"]["containers"][0]["env"]}
    assert environment["SANDLOT_PYTHON_INDEX_URL"] == environment["SANDLOT_NPM_REGISTRY_URL"] == "off"


def test_every_mount_has_its_volume_and_every_secret_is_one_that_the_script_makes() -> None:
    made = (FOLDER.parent / "make-secrets.sh").read_text()
    made += "".join(f"put redis-{role}.url " for role in Role) if 'put "redis-$role.url" ' in made else ""
    for pod in PODS.values():
        volumes = {volume["name"]: volume for volume in pod["volumes"]} | {"data": {}}
        for mount in pod["containers"][0]["volumeMounts"]:
            assert mount["name"] in volumes
        for volume in volumes.values():
            for item in volume.get("secret", {}).get("items", []):
                assert f"put {item['key']} " in made


def test_a_worker_has_no_api_key() -> None:
    (secret,) = [volume["secret"] for volume in PODS["sandlot-worker"]["volumes"] if "secret" in volume]
    assert {item["key"] for item in secret["items"]} == {
        "redis-worker.url", "signing.key", "metrics.token", "callback.secret",
    }  # fmt: skip


def test_the_page_puts_every_key_that_is_mounted_into_its_secret() -> None:
    page = (FOLDER.parents[1] / "docs" / "deploy.md").read_text().replace("\\\n", " ")
    for pod in PODS.values():
        for secret in (volume["secret"] for volume in pod["volumes"] if "secret" in volume):
            made = re.search(rf"create secret generic {secret['secretName']} (.*)$", page, re.MULTILINE)
            assert made is not None
            mounted = {item["key"] for item in secret.get("items", [])}
            assert mounted <= set(re.findall(r"--from-file=deploy/secrets/(\S+)", made[1]))


def test_pods_outlive_the_drain_they_are_given() -> None:
    assert PODS["sandlot-worker"]["terminationGracePeriodSeconds"] > Settings.model_fields["drain_s"].default


def test_services_find_their_pods_by_labels_that_these_have() -> None:
    documents = [document for documents in DOCUMENTS.values() for document in documents]
    labels = [document["spec"]["template"]["metadata"]["labels"] for document in documents if "template" in document.get("spec", {})]  # fmt: skip
    for service in (document for document in documents if document["kind"] == "Service"):
        assert service["spec"]["selector"] in labels


def test_the_list_of_resources_is_complete_but_for_what_needs_an_operator() -> None:
    listed = set(DOCUMENTS["kustomization.yaml"][0]["resources"])
    assert listed == set(DOCUMENTS) - {"kustomization.yaml", "keda.yaml"}


def test_the_scaler_scales_a_deployment_that_exists() -> None:
    authentication, scaler = DOCUMENTS["keda.yaml"]
    assert scaler["spec"]["scaleTargetRef"]["name"] in PODS
    assert scaler["spec"]["minReplicaCount"] >= 1
    (secret,) = authentication["spec"]["secretTargetRef"]
    assert (secret["parameter"], secret["key"]) == ("token", "metrics.token")
    for trigger in scaler["spec"]["triggers"]:
        assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]


@pytest.mark.parametrize("runtime", Runtime)
def test_the_scaler_reads_a_number_that_the_api_exports(runtime: Runtime) -> None:
    """GJSON's `list.#(key=="value").field` is the field of the first that has it."""
    load = QueueLoads(3, 0, 0, 0, [*Runtime], [QueueLoad("f", runtime, 3, 0, 1.0)], [])
    read = []
    for trigger in DOCUMENTS["keda.yaml"][1]["spec"]["triggers"]:
        url, path = trigger["metadata"]["url"], trigger["metadata"]["valueLocation"]
        assert ("GET", "/" + url.split("/", 3)[3]) in OPERATION_AT
        found = re.fullmatch(r'(\w+)\.#\((\w+)=="([\w,]+)"\)\.(\w+)', path)
        assert found is not None
        many, key, value, field = found.groups()
        items: Any = status_document(load)[many]
        read.append((value, next(item for item in items if item[key] == value)[field]))
    assert dict(read) == {name.value: 3 if name is runtime else 0 for name in Runtime}
