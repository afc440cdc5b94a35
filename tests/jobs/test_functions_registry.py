"""The registry on a real server: versions, pushes, signatures, and what happens when Redis lies or goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import redis
from redis.asyncio import Redis

from sandlot.errors import CallerError, FunctionNotFound, QueueUnavailable, UnsafeRecord, VersionNotFound
from sandlot.functions import Bundle, Manifest, Registry
from sandlot.models import Runtime
from sandlot.redis import keys
from sandlot.redis.connection import connect
from tests.waiting import eventually

KEY = b"k" * 32
MANIFEST = Manifest(runtime=Runtime.PYTHON, handler="main.handler")


def code(number: int) -> Bundle:
    return Bundle({"main.py": b"def handler(event, context): return %d" % number})


@pytest.fixture
async def client(url: str) -> AsyncIterator[Redis]:
    opened = connect(url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def registry(client: Redis) -> AsyncIterator[Registry]:
    async with Registry(client, KEY) as opened:
        yield opened


@pytest.fixture
async def elsewhere(url: str) -> AsyncIterator[Registry]:
    """Another process's registry: a client and a cache of its own."""
    client = connect(url)
    async with Registry(client, KEY) as opened:
        yield opened
    await client.aclose()


async def test_a_deployed_function_is_found_and_its_code_is_what_was_deployed(registry: Registry) -> None:
    deployed = await registry.deploy("hello", code(1), MANIFEST)
    assert (deployed.created, deployed.changed, deployed.version.number) == (True, True, 1)
    assert await registry.resolve("hello") == deployed.version
    assert await registry.resolve("hello", "1") == deployed.version
    assert await registry.version("hello", deployed.version.digest) == deployed.version
    assert await registry.bundle(deployed.version.digest) == code(1)


async def test_the_same_code_is_the_same_version_again(registry: Registry) -> None:
    first = await registry.deploy("hello", code(1), MANIFEST)
    await registry.deploy("hello", code(2), MANIFEST)
    again = await registry.deploy("hello", code(1), MANIFEST)
    assert (again.created, again.changed, again.version) == (False, False, first.version)
    assert (await registry.resolve("hello")).number == 1, "deploying an earlier version again is a rollback"
    assert [version.number for version in (await registry.describe("hello")).versions] == [2, 1]


async def test_deploys_at_the_same_time_each_get_a_number_of_their_own(registry: Registry, elsewhere: Registry) -> None:
    deployed = await asyncio.gather(
        *((registry if number % 2 else elsewhere).deploy("hello", code(number), MANIFEST) for number in range(12))
    )
    assert sorted(one.version.number for one in deployed) == list(range(1, 13))
    assert sum(one.created for one in deployed) == 1


async def test_a_deploy_elsewhere_is_pushed_here(registry: Registry, elsewhere: Registry) -> None:
    await eventually(lambda: elsewhere._invalidation.alive_until_s > time.monotonic())
    await registry.deploy("hello", code(1), MANIFEST)
    assert (await elsewhere.resolve("hello")).number == 1
    await registry.deploy("hello", code(2), MANIFEST)
    await eventually(lambda: not elsewhere._resolved)
    assert (await elsewhere.resolve("hello")).number == 2


async def test_a_name_that_is_known_costs_no_call_while_pushes_come(registry: Registry, raw: redis.Redis) -> None:
    await eventually(lambda: registry._invalidation.alive_until_s > time.monotonic())
    epoch = registry._epoch
    await registry.deploy("hello", code(1), MANIFEST)
    await eventually(lambda: registry._epoch == epoch + 2)  # once by the deploy itself, once by its push
    await registry.resolve("hello")
    before = raw.info("commandstats").get("cmdstat_hget", {}).get("calls")
    for _ in range(100):
        await registry.resolve("hello")
    assert raw.info("commandstats").get("cmdstat_hget", {}).get("calls") == before


async def test_without_pushes_the_cache_forgets_after_a_second(
    client: Redis, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    unopened = Registry(client, KEY)
    await registry.deploy("hello", code(1), MANIFEST)
    assert (await unopened.resolve("hello")).number == 1
    await registry.deploy("hello", code(2), MANIFEST)
    now_s = time.monotonic()
    monkeypatch.setattr("sandlot.functions.registry.time.monotonic", lambda: now_s + 1.01)
    assert (await unopened.resolve("hello")).number == 2


async def test_unknown_functions_and_versions_are_not_found(registry: Registry) -> None:
    await registry.deploy("hello", code(1), MANIFEST)
    for name in ("nothing", "Hello", "a/b", "", "x" * 100):
        with pytest.raises(FunctionNotFound):
            await registry.resolve(name)
    for qualifier in ("2", "0", "-1", "x", "9" * 30, "¹"):
        with pytest.raises(VersionNotFound, match="the latest is 1"):
            await registry.resolve("hello", qualifier)
    with pytest.raises(VersionNotFound):
        await registry.version("hello", "0" * 64)
    with pytest.raises(VersionNotFound, match="no longer stored"):
        await registry.bundle("0" * 64)
    with pytest.raises(CallerError, match="is not a valid function name"):
        await registry.deploy("Not A Name", code(1), MANIFEST)


async def test_a_deleted_function_is_gone_and_its_code_expires(
    registry: Registry, elsewhere: Registry, raw: redis.Redis
) -> None:
    digest = (await registry.deploy("hello", code(1), MANIFEST)).version.digest
    assert raw.ttl(keys.BUNDLE + digest) == -1
    await elsewhere.resolve("hello")
    await registry.delete("hello")
    with pytest.raises(FunctionNotFound):
        await registry.resolve("hello")
    await eventually(lambda: not elsewhere._resolved)
    with pytest.raises(FunctionNotFound):
        await elsewhere.resolve("hello")
    assert raw.ttl(keys.BUNDLE + digest) > 0
    with pytest.raises(FunctionNotFound):
        await registry.delete("hello")
    again = await registry.deploy("hello", code(1), MANIFEST)
    assert (again.created, raw.ttl(keys.BUNDLE + digest)) == (True, -1)


async def test_code_that_two_functions_share_stays_while_one_of_them_does(registry: Registry, raw: redis.Redis) -> None:
    digest = (await registry.deploy("one", code(1), MANIFEST)).version.digest
    assert (await registry.deploy("two", code(1), MANIFEST)).version.digest == digest
    await registry.delete("one")
    assert raw.ttl(keys.BUNDLE + digest) == -1
    await registry.delete("two")
    assert raw.ttl(keys.BUNDLE + digest) > 0


async def test_functions_are_listed_in_pages(registry: Registry) -> None:
    for name in ("c", "a", "b"):
        await registry.deploy(name, code(1), MANIFEST)
    first = await registry.list(limit=2)
    assert ([version.function for version in first.functions], first.next) == (["a", "b"], "b")
    rest = await registry.list(limit=2, cursor="b")
    assert ([version.function for version in rest.functions], rest.next) == (["c"], None)


async def test_a_bundle_of_many_chunks_arrives_whole(registry: Registry) -> None:
    big = Bundle({"main.py": b"def handler(e, c): return 1", "data": bytes(range(256)) * 12_000})
    digest = (await registry.deploy("big", big, MANIFEST)).version.digest
    assert await registry.bundle(digest) == big


async def test_a_record_or_bundle_that_was_changed_in_redis_is_refused(
    registry: Registry, elsewhere: Registry, raw: redis.Redis
) -> None:
    one = (await registry.deploy("hello", code(1), MANIFEST)).version
    await registry.deploy("hello", code(2), MANIFEST)
    await registry.deploy("other", code(3), MANIFEST)
    raw.hset(keys.BUNDLE + one.digest, "0", b"x\x9cjunk")
    with pytest.raises(UnsafeRecord, match="a different digest"):
        await registry.bundle(one.digest)
    second, foreign = raw.hget(keys.FUNCTION + "hello", "v2"), raw.hget(keys.FUNCTION + "other", "v1")
    for record in (second, foreign, b"", b"{}", b"0" * 64 + b"{}"):
        raw.hset(keys.FUNCTION + "hello", "v1", record)
        with pytest.raises(UnsafeRecord):
            await elsewhere.resolve("hello", "1")
        with pytest.raises(UnsafeRecord):
            await elsewhere.version("hello", one.digest)
    with pytest.raises(UnsafeRecord, match="is not a digest"):
        await registry.bundle("../../etc/passwd")


async def test_a_version_signed_with_another_key_is_refused(registry: Registry, client: Redis) -> None:
    await registry.deploy("hello", code(1), MANIFEST)
    with pytest.raises(UnsafeRecord, match="not signed with this signing key"):
        await Registry(client, b"x" * 32).resolve("hello")


async def test_without_redis_every_request_reports_it() -> None:
    client = connect("unix:///nowhere/valkey.sock")
    try:
        registry = Registry(client, KEY)
        for question in (
            registry.resolve("hello"),
            registry.list(),
            registry.delete("hello"),
            registry.bundle("0" * 64),
        ):
            with pytest.raises(QueueUnavailable, match="Redis did not do what was asked"):
                await question
    finally:
        await client.aclose()


@pytest.mark.slow
async def test_a_subscription_that_is_cut_is_made_again(
    registry: Registry, elsewhere: Registry, raw: redis.Redis
) -> None:
    await eventually(lambda: elsewhere._invalidation.alive_until_s > time.monotonic())
    await registry.deploy("hello", code(1), MANIFEST)
    assert (await elsewhere.resolve("hello")).number == 1
    raw.client_kill_filter(_type="pubsub")
    await eventually(lambda: elsewhere._invalidation.alive_until_s <= time.monotonic())
    await registry.deploy("hello", code(2), MANIFEST)
    await eventually(lambda: elsewhere._invalidation.alive_until_s > time.monotonic())
    assert (await elsewhere.resolve("hello")).number == 2, "what was missed while cut off is not believed"
