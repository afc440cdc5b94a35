"""deploy/kubernetes checked strictly against Kubernetes' own schemas.

A field that the API server does not know is an error.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from tests.containers.engine import REPOSITORY

FOLDER: Final = REPOSITORY / "deploy" / "kubernetes"
VERSION: Final = "1.37"
NOT_OURS: Final = frozenset({"kustomize.config.k8s.io", "keda.sh"})
"""Groups of resources whose schemas are not Kubernetes's."""
RESOURCES: Final = [
    document
    for file in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
    if document["apiVersion"].partition("/")[0] not in NOT_OURS
]


def name(resource: dict[str, Any]) -> str:
    return f"{resource['kind']} {resource['metadata']['name']}"


@pytest.mark.parametrize("resource", RESOURCES, ids=name)
def test_every_resource_is_valid(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, VERSION, strict=True)


def test_an_unknown_field_is_refused() -> None:
    """Else the test above would say nothing."""
    (worker,) = [found for found in RESOURCES if name(found) == "Deployment sandlot-worker"]
    wrong = copy.deepcopy(worker)
    wrong["spec"]["template"]["spec"]["containers"][0]["securityContext"]["seccomp"] = "ours"
    with pytest.raises(kubernetes_validate.ValidationError, match="seccomp"):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_renders_the_same_resources_with_the_named_image() -> None:
    words = ["kubectl", "kustomize", str(FOLDER)]
    made = list(yaml.safe_load_all(subprocess.run(words, check=True, capture_output=True, timeout=60).stdout))
    assert sorted(map(name, made)) == sorted(map(name, RESOURCES))
    for resource in made:
        kubernetes_validate.validate(resource, VERSION, strict=True)
        assert resource["kind"] == "Namespace" or resource["metadata"]["namespace"] == "sandlot"
    pods = [found["spec"]["template"]["spec"] for found in made if found["kind"] in ("Deployment", "StatefulSet")]
    images = {container["image"] for pod in pods for container in pod["containers"]}
    assert images == {"registry.example.com/sandlot:0.1.0"}
