"""Builds that run a stranger's code: they neither reach another function's packages nor keep its build waiting."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sandlot.api_keys import KeyStore, Scope
from sandlot.redis.connection import connect
from tests.sandbox.hostile_packages import SLEEPS, hostile_sdist, poisons
from tests.sandbox.package_index import Index, open_index
from tests.system.http.conftest import SIGNING_KEY, Stack
from tests.system.http.test_deploy_dependencies import start_worker
from tests.waiting import until

SOURCE = "import sharedlib\ndef handler(event, context):\n    return sharedlib.VERSION\n"
PLAIN = "def handler(event, context):\n    return 'plain'\n"


@pytest.fixture
def index() -> Iterator[Index]:
    with open_index() as opened:
        opened.add_wheel("sharedlib", "1.0", "VERSION = 'genuine'\n")
        yield opened


@pytest.fixture
def stack(own: Stack) -> Stack:
    _, own.url = own.start_api()
    return own


def deploy(client: httpx.Client, name: str, text: str, *dependencies: str, source_builds: bool) -> None:
    manifest = {"runtime": "python", "dependencies": list(dependencies), "source_builds": source_builds}
    reply = client.put(f"/v1/functions/{name}", json={"source": text, "manifest": manifest})
    assert reply.status_code == 201, reply.text


def state(client: httpx.Client, name: str) -> str:
    return str(client.get(f"/v1/functions/{name}", params={"version": 1}).json()["state"])


async def new_key(stack: Stack, owner: str) -> str:
    client = connect(stack.environment["SANDLOT_REDIS_URL"])
    try:
        return (await KeyStore(client, SIGNING_KEY.encode()).create([Scope.DEPLOY, Scope.READ], owner=owner))[0]
    finally:
        await client.aclose()


def test_a_package_built_from_source_fills_no_tree_of_another_function(
    stack: Stack, index: Index, tmp_path: Path
) -> None:
    genuine = hashlib.sha256(index.files["sharedlib-1.0-py3-none-any.whl"]).hexdigest()
    lock = f"sharedlib==1.0 \\\n    --hash=sha256:{genuine}\n"
    body = poisons(lock, "/tmp/tree/sharedlib/__init__.py", "VERSION = 'poisoned'\n")
    index.files["evil-1.0.tar.gz"] = hostile_sdist("evil", body)
    start_worker(stack, index, tmp_path / "one")
    with stack.client() as client:
        deploy(client, "attacker", PLAIN, "evil", source_builds=True)
        until(lambda: state(client, "attacker") != "pending")
        for name, source_builds in (("victim", True), ("careful-victim", False)):
            deploy(client, name, SOURCE, "sharedlib", source_builds=source_builds)
            until(lambda name=name: state(client, name) == "active")  # type: ignore[misc]
            assert client.post(f"/v1/functions/{name}/invoke").json() == "genuine"


def test_a_build_that_sleeps_delays_neither_wheels_nor_the_source_builds_of_other_owners(
    stack: Stack, index: Index, tmp_path: Path
) -> None:
    index.files["slow-1.0.tar.gz"] = hostile_sdist("slow", SLEEPS)
    index.add_sdist("quick", "1.0")
    start_worker(stack, index, tmp_path / "one")
    with stack.client() as client:
        for number in range(3):
            deploy(client, f"sleeper-{number}", f"{PLAIN}# {number}\n", "slow", source_builds=True)
        until(lambda: any("slow" in path and "tar.gz" in path for path in index.seen))
        deploy(client, "wheels", SOURCE, "sharedlib", source_builds=False)
        until(lambda: state(client, "wheels") == "active")
        client.headers["authorization"] = f"Bearer {asyncio.run(new_key(stack, 'another'))}"
        deploy(client, "source", PLAIN, "quick", source_builds=True)
        until(lambda: state(client, "source") == "active")
        assert state(client, "sleeper-0") == "pending"
