"""The cache of unpacked bundles: once per machine, complete, read-only."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandlot.errors import UnsafeRecord, VersionNotFound
from sandlot.functions import Bundle, Manifest, Registry
from sandlot.functions.dependencies import Lock
from sandlot.models import Isolation, Runtime
from sandlot.redis import keys
from sandlot.redis.connection import connect
from sandlot.secret_store import SecretStore
from tests.waiting import HANG_S
from worker.bundle_cache import BundleCache
from worker.disk_cache import IN_USE_S, UNUSED_S, DiskCache

KEY = b"k" * 32
FILES = {"main.py": b"def handler(e, c): return 1", "parts/one.py": b"ONE = 1"}
MANIFEST = Manifest(
    runtime=Runtime.PYTHON, handler="main.handler", memory_mib=64, isolation=Isolation.FORK, environment={"A": "1"}
)


@pytest.fixture
async def registry(url: str) -> AsyncIterator[Registry]:
    client = connect(url)
    async with Registry(client, KEY) as opened:
        yield opened
    await client.aclose()


@pytest.fixture
async def secrets(url: str) -> AsyncIterator[SecretStore]:
    client = connect(url)
    yield SecretStore(client, KEY)
    await client.aclose()


@pytest.fixture
async def cache(registry: Registry, secrets: SecretStore, tmp_path: Path) -> AsyncIterator[BundleCache]:
    opened = open_cache(registry, secrets, tmp_path / "cache")
    await opened.open()
    yield opened
    await opened.close()


def open_cache(registry: Registry, secrets: SecretStore, folder: Path, *, limit_mib: int = 4096) -> BundleCache:
    """A cache for versions without dependencies."""
    return BundleCache(registry, secrets, DiskCache(folder, limit_mib), no_packages)


async def no_packages(_lock: Lock) -> Path:
    raise AssertionError("nothing here has dependencies")


async def deploy(registry: Registry) -> str:
    return (await registry.deploy("hello", Bundle(FILES), MANIFEST)).version.digest


async def test_a_version_is_on_disk_as_deployed_and_read_only(registry: Registry, cache: BundleCache) -> None:
    digest = await deploy(registry)
    spec = await cache.spec("hello", digest)
    assert {name: (spec.bundle_dir / name).read_bytes() for name in FILES} == FILES
    modes = {str(path.relative_to(spec.bundle_dir)): path.stat().st_mode & 0o777 for path in spec.bundle_dir.rglob("*")}
    assert modes == {"main.py": 0o444, "parts": 0o555, "parts/one.py": 0o444}
    assert (spec.function, spec.version, spec.digest, spec.handler) == ("hello", 1, digest, "main.handler")
    assert (spec.memory_limit_mib, spec.isolation, dict(spec.environment)) == (64, Isolation.FORK, {"A": "1"})


async def test_the_manifests_network_and_required_isolation_reach_the_sandbox(
    registry: Registry, cache: BundleCache
) -> None:
    asking = MANIFEST.model_copy(update={"network": ("example.org",), "require": ("strict",)})
    asks = await cache.spec("asks", (await registry.deploy("asks", Bundle(FILES), asking)).version.digest)
    silent = await cache.spec("hello", await deploy(registry))
    assert (asks.network, asks.require, silent.network, silent.require) == (("example.org",), ("strict",), (), ())


async def test_simultaneous_requests_share_one_fetch(
    registry: Registry, cache: BundleCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await deploy(registry)
    fetched = []
    bundle = registry.bundle

    async def counted(wanted: str) -> Bundle:
        fetched.append(wanted)
        return await bundle(wanted)

    monkeypatch.setattr(registry, "bundle", counted)
    specs = await asyncio.gather(*(cache.spec("hello", digest) for _ in range(20)))
    assert fetched == [digest]
    assert len({id(spec) for spec in specs}) == 1


async def test_a_caller_that_gives_up_leaves_the_fetch_to_the_others(registry: Registry, cache: BundleCache) -> None:
    digest = await deploy(registry)
    impatient = asyncio.create_task(cache.spec("hello", digest))
    patient = asyncio.create_task(cache.spec("hello", digest))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).bundle_dir.is_dir()


async def test_two_workers_of_a_machine_share_the_folder(
    registry: Registry, cache: BundleCache, secrets: SecretStore, tmp_path: Path
) -> None:
    digest = await deploy(registry)
    other = open_cache(registry, secrets, tmp_path / "cache")
    await other.open()
    one, two = await asyncio.gather(cache.spec("hello", digest), other.spec("hello", digest))
    assert one.bundle_dir == two.bundle_dir
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")] == [digest]
    await other.close()


async def test_a_removed_folder_is_unpacked_again(registry: Registry, cache: BundleCache) -> None:
    digest = await deploy(registry)
    folder = (await cache.spec("hello", digest)).bundle_dir
    (folder / "parts").chmod(0o755)
    shutil.rmtree(folder)
    assert (await cache.spec("hello", digest)).bundle_dir.is_dir()


async def test_code_that_is_gone_or_was_changed_leaves_nothing_on_disk(
    registry: Registry, cache: BundleCache, tmp_path: Path, url: str
) -> None:
    digest = await deploy(registry)
    with pytest.raises(VersionNotFound):
        await cache.spec("hello", "0" * 64)
    client = connect(url)
    await client.hset(keys.BUNDLE + digest, "0", "junk")
    with pytest.raises(UnsafeRecord):
        await cache.spec("hello", digest)
    await client.unlink(keys.BUNDLE + digest)
    with pytest.raises(VersionNotFound):
        await cache.spec("hello", digest)
    await client.aclose()
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


async def test_leftovers_and_long_unused_entries_are_removed(
    registry: Registry, secrets: SecretStore, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    for name, age_s in ((".new-abandoned", 7200), (".new-fresh", 10), ("a" * 64, UNUSED_S + 60), ("b" * 64, 60)):
        (folder / name / "inner").mkdir(parents=True)
        (folder / name / "inner").chmod(0o555)
        os.utime(folder / name, (os.stat(folder).st_mtime - age_s,) * 2)
    await open_cache(registry, secrets, folder).open()
    assert sorted(path.name for path in folder.iterdir()) == [".new-fresh", "b" * 64]


async def put(registry: Registry, cache: BundleCache, number: int, *, unused_s: float) -> Path:
    bundle = Bundle({"main.py": b"def handler(e, c): return %d" % number, "data": bytes(400_000)})
    digest = (await registry.deploy("hello", bundle, MANIFEST)).version.digest
    folder = (await cache.spec("hello", digest)).bundle_dir
    used_s = time.time() - unused_s
    os.utime(folder, (used_s, used_s))
    return folder


async def test_the_least_recently_used_entry_makes_room(
    registry: Registry, secrets: SecretStore, tmp_path: Path
) -> None:
    cache = open_cache(registry, secrets, tmp_path / "cache", limit_mib=1)
    await cache.open()
    middle = await put(registry, cache, 1, unused_s=IN_USE_S + 20)
    oldest = await put(registry, cache, 2, unused_s=IN_USE_S + 30)
    third = await put(registry, cache, 3, unused_s=0)
    assert (oldest.exists(), middle.exists(), third.exists()) == (False, True, True)
    assert (await cache.spec("hello", oldest.name)).bundle_dir.is_dir(), "it is fetched again"
    assert not middle.exists()
    await cache.close()


async def test_entries_in_use_stay_however_full_the_cache_is(
    registry: Registry, secrets: SecretStore, tmp_path: Path
) -> None:
    cache = open_cache(registry, secrets, tmp_path / "cache", limit_mib=1)
    await cache.open()
    used = await put(registry, cache, 1, unused_s=IN_USE_S + 20)
    cache.report_use(lambda: [used.name])
    async with asyncio.timeout(HANG_S):
        while time.time() - used.stat().st_mtime > IN_USE_S:  # noqa: ASYNC110  # the file system has no event for it
            await asyncio.sleep(0)
    for number in (2, 3, 4):
        await put(registry, cache, number, unused_s=0)
    assert used.exists()
    await cache.close()
