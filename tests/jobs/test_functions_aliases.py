"""Aliases, revisions and the end of old versions, on a real server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import redis
from redis.asyncio import Redis

from sandlot.errors import CallerError, FunctionNotFound, VersionConflict, VersionNotFound
from sandlot.functions import Alias, Bundle, Manifest, Registry
from sandlot.jobs import Queue
from sandlot.models import LATEST, Runtime
from sandlot.redis import keys
from sandlot.redis.connection import connect
from tests.jobs.conftest import HandWorker, MakeInvocation

KEY = b"k" * 32
MANIFEST = Manifest(runtime=Runtime.PYTHON, handler="main.handler")
KEPT = 3


def code(number: int) -> Bundle:
    return Bundle({"main.py": b"def handler(event, context): return %d" % number})


@pytest.fixture
async def client(url: str) -> AsyncIterator[Redis]:
    opened = connect(url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def registry(client: Redis) -> AsyncIterator[Registry]:
    async with Registry(client, KEY, versions_kept=KEPT) as opened:
        yield opened


async def deploy(registry: Registry, *numbers: int) -> None:
    for number in numbers:
        await registry.deploy("hello", code(number), MANIFEST)


async def test_an_alias_means_what_it_was_moved_to_last(registry: Registry) -> None:
    await deploy(registry, 1, 2)
    await registry.move_alias("hello", "prod", Alias(version=1))
    assert (await registry.resolve("hello", "prod")).number == 1
    await registry.move_alias("hello", "prod", Alias(version=2))
    assert (await registry.resolve("hello", "prod")).number == 2
    await registry.remove_alias("hello", "prod")
    with pytest.raises(VersionNotFound, match="no alias 'prod'"):
        await registry.resolve("hello", "prod")
    with pytest.raises(VersionNotFound, match="no alias 'prod'"):
        await registry.remove_alias("hello", "prod")


async def test_moving_what_a_function_means_without_a_version_is_a_rollback(registry: Registry) -> None:
    await deploy(registry, 1, 2)
    await registry.move_alias("hello", LATEST, Alias(version=1))
    assert (await registry.resolve("hello")).number == 1
    await deploy(registry, 3)
    assert (await registry.resolve("hello")).number == 3


async def test_weights_share_calls_and_the_same_key_always_gets_the_same_version(registry: Registry) -> None:
    await deploy(registry, 1, 2)
    await registry.move_alias("hello", "prod", Alias(version=1, weights={2: 0.25}))
    keys_ = [f"key-{number}" for number in range(2000)]
    first = [(await registry.resolve("hello", "prod", key)).number for key in keys_]
    assert [(await registry.resolve("hello", "prod", key)).number for key in keys_] == first
    assert 400 < Counter(first)[2] < 600
    assert {(await registry.resolve("hello", "prod")).number for _ in range(200)} == {1, 2}, "without a key by chance"


@pytest.mark.parametrize(
    ("alias", "target", "error"),
    [
        ("prod", Alias(version=9), VersionNotFound),
        ("prod", Alias(version=1, weights={9: 0.5}), VersionNotFound),
        ("prod", Alias(version=1, weights={1: 0.5}), CallerError),
        ("prod", Alias(version=1, weights={2: 1.5}), CallerError),
        ("prod", Alias(version=1, weights={2: float("nan")}), CallerError),
        ("prod", Alias(version=1, weights={2: 0.6, 3: 0.6}), CallerError),
        ("12", Alias(version=1), CallerError),
        ("Prod", Alias(version=1), CallerError),
        (LATEST, Alias(version=1, weights={2: 0.5}), CallerError),
    ],
)
async def test_an_alias_that_means_nothing_is_refused(
    registry: Registry, alias: str, target: Alias, error: type[Exception]
) -> None:
    await deploy(registry, 1, 2)
    with pytest.raises(error):
        await registry.move_alias("hello", alias, target)
    assert (await registry.describe("hello")).aliases == {}


async def test_an_alias_of_nothing_is_refused(registry: Registry) -> None:
    with pytest.raises(FunctionNotFound):
        await registry.move_alias("nothing", "prod", Alias(version=1))
    await deploy(registry, 1)
    with pytest.raises(CallerError, match="cannot be removed"):
        await registry.remove_alias("hello", LATEST)


async def test_of_two_deploys_on_the_same_revision_one_wins(registry: Registry) -> None:
    await deploy(registry, 1)
    revision = (await registry.describe("hello")).revision
    ends = await asyncio.gather(
        *(registry.deploy("hello", code(number), MANIFEST, revision=revision) for number in (2, 3)),
        return_exceptions=True,
    )
    assert sorted(type(end).__name__ for end in ends) == ["DeployResult", "VersionConflict"]
    described = await registry.describe("hello")
    assert (len(described.versions), described.revision != revision) == (2, True)
    with pytest.raises(VersionConflict):
        await registry.move_alias("hello", "prod", Alias(version=1), revision=revision)
    assert await registry.move_alias("hello", "prod", Alias(version=1), revision=described.revision)


async def test_a_function_that_was_removed_has_no_revision_and_never_the_old_one(registry: Registry) -> None:
    await deploy(registry, 1)
    before = (await registry.describe("hello")).revision
    await registry.delete("hello")
    with pytest.raises(VersionConflict):
        await registry.deploy("hello", code(1), MANIFEST, revision="*")
    await deploy(registry, 1)
    assert (await registry.describe("hello")).revision != before


async def test_deploying_the_same_again_leaves_the_revision(registry: Registry) -> None:
    await deploy(registry, 1)
    before = (await registry.describe("hello")).revision
    assert (await registry.deploy("hello", code(1), MANIFEST)).revision == before


async def test_old_versions_go_but_not_those_that_an_alias_means(registry: Registry) -> None:
    await deploy(registry, 1, 2)
    await registry.move_alias("hello", "prod", Alias(version=1))
    await deploy(registry, 3, 4, 5, 6)
    assert [version.number for version in (await registry.describe("hello")).versions] == [6, 5, 4, 1]
    with pytest.raises(VersionNotFound):
        await registry.resolve("hello", "2")
    assert (await registry.resolve("hello", "prod")).number == 1


@pytest.mark.parametrize("delay_ms", [0, 60_000])
async def test_a_version_that_is_queued_can_be_run_until_its_jobs_are_done(
    registry: Registry,
    queue: Queue,
    worker: HandWorker,
    make: MakeInvocation,
    raw: redis.Redis,
    client: Redis,
    delay_ms: int,
) -> None:
    await deploy(registry, 1, 2)
    used, unused = await registry.resolve("hello", "1"), await registry.resolve("hello", "2")
    await queue.submit(make(version=1, digest=used.digest, delay_ms=delay_ms), reply=False)
    await deploy(registry, 3, 4, 5)
    for number in (1, 2):
        raw.hset(keys.FUNCTION + "hello", f"t{number}", 1)  # retired long ago
    await deploy(registry, 6)
    elsewhere = Registry(client, KEY)  # a worker that has not heard of either version yet
    assert await elsewhere.version("hello", used.digest) == used
    assert await elsewhere.bundle(used.digest) == code(1)
    assert raw.ttl(keys.BUNDLE + unused.digest) > 0
    with pytest.raises(VersionNotFound):
        await elsewhere.version("hello", unused.digest)


async def test_when_its_jobs_are_done_an_old_version_is_forgotten(
    registry: Registry, queue: Queue, worker: HandWorker, make: MakeInvocation, raw: redis.Redis
) -> None:
    await deploy(registry, 1)
    used = await registry.resolve("hello", "1")
    await queue.submit(make(version=1, digest=used.digest), reply=False)
    (claim,) = (await worker.step(1)).claims
    await deploy(registry, 2, 3, 4)
    raw.hset(keys.FUNCTION + "hello", "t1", 1)
    await deploy(registry, 5)
    assert raw.hexists(keys.FUNCTION + "hello", "r1"), "it runs"
    await worker.step(0, worker.ending(claim))
    await deploy(registry, 6)
    assert not raw.hexists(keys.FUNCTION + "hello", "r1")
    assert raw.ttl(keys.BUNDLE + used.digest) > 0


async def test_code_that_was_retired_can_be_deployed_again(registry: Registry, raw: redis.Redis) -> None:
    await deploy(registry, 1, 2, 3, 4)
    again = await registry.deploy("hello", code(1), MANIFEST)
    assert (again.version.number, again.changed) == (5, True)
    raw.hset(keys.FUNCTION + "hello", "t1", 1)
    await deploy(registry, 6)
    assert (await registry.version("hello", again.version.digest)).number == 5
    assert raw.ttl(keys.BUNDLE + again.version.digest) == -1
