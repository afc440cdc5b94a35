"""compose.worker.yaml: a worker that has only a signing key and the URL of a Valkey, over TLS."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.engine import IMAGE, Engine
from tests.containers.stack import Stack
from tests.waiting import until

pytestmark = pytest.mark.timeout(1800)

NAME = "redis.example"
DOOR = "sandlot-test-door"
CERTIFICATE = (
    f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={NAME} "
    f"-addext subjectAltName=DNS:{NAME} -keyout /made/door.key -out /made/redis-ca.pem && chmod 644 /made/*"
)
NEEDY = "# /// script\n# dependencies = ['greeter']\n# ///\ndef handler(event, context):\n    return event\n"
SOURCE = "def handler(event, context):\n    return event\n"


@pytest.fixture(scope="module")
def here(engine: Engine, secrets: Path) -> Iterator[Stack]:
    made = Stack(engine, "sandlot-test-here", "compose.yaml", secrets)
    try:
        made.up()
        made.wait_for(workers=1)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def there(here: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("there")
    folder.chmod(0o777)  # the container's user writes the certificate
    here.engine.once("--volume", f"{folder}:/made", "--entrypoint", "bash", IMAGE, "-c", CERTIFICATE)
    for name in ("signing.key", "metrics.token", "callback.secret"):
        shutil.copy(here.secrets / name, folder)
    url = (here.secrets / "redis-worker.url").read_text().strip().replace("redis://", "rediss://")
    url = url.replace("@valkey:6379", f"@{NAME}:6380") + "?ssl_ca_certs=/run/secrets/redis_ca"
    (folder / "redis-worker.url").write_text(url + "\n")
    made = Stack(here.engine, "sandlot-test-there", "compose.worker.yaml", folder)
    try:
        made.up()
        open_door(here, made, folder)
        yield made
    finally:
        made.down()
        here.engine.run("rm", "--force", "--time", "1", DOOR, check=False)


def open_door(here: Stack, there: Stack, folder: Path) -> None:
    """Use the server's IP address.

    On two networks, Podman 4.3's name server at times asks outside for a name of the other one.
    """
    script = Path(__file__).parent / "tls_proxy.py"
    (valkey,) = here.containers("valkey")
    address = here.engine.inspect(valkey)["NetworkSettings"]["Networks"][f"{here.project}_queue"]["IPAddress"]
    here.engine.run(
        *("run", "--detach", "--init", "--name", DOOR, "--entrypoint", "python"),
        *("--network", f"{here.project}_queue", "--network", f"{there.project}_out:alias={NAME}"),
        *("--volume", f"{folder}:/made:ro", "--volume", f"{script}:/door.py:ro"),
        *(IMAGE, "/door.py", "/made/redis-ca.pem", "/made/door.key", address, "6379"),
    )


def test_a_remote_worker_joins_over_tls_and_runs_deployed_functions(here: Stack, there: Stack) -> None:
    here.wait_for(workers=2)
    here.engine.run("stop", "--time", "8", *here.containers("worker"))
    here.deploy("echo", "echo.py", SOURCE)
    reply = until(
        lambda: found if (found := here.call("echo", {"n": 1})).status_code == 200 else None, reason=lambda: "an answer"
    )
    assert reply.json() == {"n": 1}
    assert here.job(reply.headers["x-job-id"])["sandbox"]["level"] == "strict"


def test_without_a_configured_index_a_deploy_names_the_missing_setting(here: Stack, there: Stack) -> None:
    here.deploy("needy", "needy.py", NEEDY)
    version = here.built("needy")
    assert version["state"] == "failed", version
    assert "SANDLOT_PYTHON_INDEX_URL is `off`" in version["reason"]


def test_a_remote_worker_has_only_the_secrets_it_needs(there: Stack) -> None:
    (worker,) = there.containers("worker")
    assert there.engine.run("exec", worker, "ls", "/run/secrets").stdout.split() == [
        "callback_secret",
        "metrics_token",
        "redis_ca",
        "redis_worker_url",
        "signing_key",
    ]


def test_a_remote_worker_reports_itself_healthy(there: Stack) -> None:
    (worker,) = there.containers("worker")
    until(
        lambda: there.engine.run("healthcheck", "run", worker, check=False).returncode == 0,
        reason=lambda: "the worker to be healthy",
    )
