"""An upgrade with compose.yaml, by the commands of docs/upgrades.md as they are written there."""

from __future__ import annotations

import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.containers.conftest import ENGINES
from tests.containers.docker_engine import Docker
from tests.containers.engine import IMAGE, REPOSITORY, Engine
from tests.containers.stack import SLOTS, Stack
from tests.containers.test_compose import SLOW

pytestmark = pytest.mark.timeout(600)

PROJECT = "sandlot-test-upgrade"
UPGRADED = "localhost/sandlot-upgraded:test"
"""The image that compose.yaml names here: first the current one, then another, as after
`docker compose build`."""


@pytest.fixture(params=ENGINES)
def stack(request: pytest.FixtureRequest, secrets: Path) -> Iterator[Stack]:
    engine: Engine = request.getfixturevalue(request.param)
    engine.run("tag", IMAGE, UPGRADED)
    made = Stack(engine, PROJECT, "compose.yaml", secrets, SANDLOT_IMAGE=UPGRADED)
    with engine.inside():
        try:
            made.up(workers=2)
            made.wait_for(workers=2)
            made.deploy("slow", "slow.py", SLOW)
            yield made
        finally:
            made.down()
            engine.run("rmi", "--force", UPGRADED, check=False)


def documented() -> tuple[str, str]:
    """Return the documented commands that replace workers, and those that replace the API."""
    text = (REPOSITORY / "docs" / "upgrades.md").read_text(encoding="utf-8")
    section = text.partition("### With Compose")[2].partition("\n## ")[0]
    workers, api = re.findall(r"(?ms)^```sh\n(.*?)^```", section)
    return workers, api


def build_another(engine: Engine, folder: Path) -> str:
    """The id of the image that the name means from now on."""
    (folder / "Dockerfile").write_text(f"FROM {IMAGE}\nLABEL sandlot.upgraded=yes\n")
    engine.build("--tag", UPGRADED, str(folder))
    return str(engine.inspect(UPGRADED)["Id"])


def shell(stack: Stack, commands: str) -> None:
    """As a reader types it, whose project and port these are."""
    ours = commands.replace("project=sandlot ", f"project={PROJECT} ").replace("127.0.0.1:8000", stack.listens_at)
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", stack.engine.shell + ours],
        cwd=REPOSITORY,
        env=stack.environment | {"COMPOSE_PROJECT_NAME": PROJECT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def callers(stack: Stack, count: int) -> Iterator[list[tuple[int, str]]]:
    """Call from `count` threads all the time, at least once each.

    Yields the list of replies: the status and the number of the attempt.
    """
    answers: list[tuple[int, str]] = []
    enough = threading.Event()

    def call() -> None:
        while not enough.is_set():
            reply = stack.call("slow", {"s": 0.5})
            answers.append((reply.status_code, reply.text))

    with ThreadPoolExecutor(count) as pool:
        calling = [pool.submit(call) for _ in range(count)]
        try:
            yield answers
        finally:
            enough.set()
        for one in calling:
            one.result()


def images(stack: Stack, service: str) -> dict[str, str]:
    return {name: stack.engine.inspect(name)["Image"] for name in stack.containers(service)}


def test_the_documented_commands_replace_workers_and_api(stack: Stack, tmp_path: Path) -> None:
    """The API goes first, as the changelog requires for this version.

    Its workers write results that an older API cannot read.
    """
    workers, api = documented()
    old = images(stack, "worker")
    new_id = build_another(stack.engine, tmp_path)
    assert new_id not in old.values()

    jobs = [stack.submit("slow", {"s": 3}) for _ in range(2 * SLOTS)]
    shell(stack, api)
    assert set(images(stack, "api").values()) == {new_id}
    stack.wait_for(workers=2)
    assert images(stack, "worker") == old
    records = [stack.job(job) for job in jobs]
    assert Counter((record["outcome"], record["attempt"]) for record in records) == {("ok", 1): 2 * SLOTS}

    with callers(stack, 4 * SLOTS) as answers:  # one call per slot of four workers: a stopped one is busy
        shell(stack, workers)
    assert set(answers) == {(200, "1")}
    new = images(stack, "worker")
    assert len(new) == 2
    assert not new.keys() & old.keys()
    assert set(new.values()) == {new_id}

    if isinstance(stack.engine, Docker):
        shell(stack, workers)
        assert len(images(stack, "worker")) == 2
        assert not images(stack, "worker").keys() & new.keys()
    else:
        shell(stack, workers.replace("worker=4", "worker=2"))  # the next time, with podman-compose
        assert images(stack, "worker").keys() == old.keys()
