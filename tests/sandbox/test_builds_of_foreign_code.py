"""What code of a package can do while it is resolved or installed: nothing beyond its own function's tree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from sandlot.errors import SandboxUnavailable
from sandlot.functions import Manifest
from sandlot.models import Runtime
from tests.sandbox.hostile_packages import SLEEPS, hostile_sdist
from tests.sandbox.npm_registry import TOKEN, open_registry
from tests.sandbox.package_index import Index, open_index
from tests.sandbox.pool_rig import open_host, open_trees
from worker.builder.build_sandbox import BuildSandbox
from worker.builder.package_files import BuildFailed
from worker.builder.package_trees import PackageTrees
from worker.sandbox.host import SandboxHost

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINKS = """
def attack():
    os.makedirs("/tmp/tree/linked", exist_ok=True)
    for source, target in (("/packages/uv", "/tmp/tree/linked/uv"), ("/tmp/tree", "/tmp/tree/linked/up")):
        if not os.path.lexists(target):
            os.symlink(source, target)
    with open("/tmp/tree/linked/own.txt", "w") as file:
        file.write("own")
    if not os.path.exists("/tmp/tree/linked/hard.txt"):
        os.link("/tmp/tree/linked/own.txt", "/tmp/tree/linked/hard.txt")
"""
LIES = """
def attack():
    # The resolver writes its lock when this has ended, so a process that waits for it replaces it.
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(null + 1, 64)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.unlink("/tmp/lock.txt")
        except OSError:
            pass
        try:
            os.mkdir("/tmp/lie", 0o700)
        except OSError:
            pass
        with open("/tmp/lie/new", "w") as file:
            file.write("--index-url=http://127.0.0.1:1/simple\\n")
        try:
            os.rename("/tmp/lie/new", "/tmp/lock.txt")
        except OSError:
            pass
    os._exit(0)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host() -> AsyncIterator[SandboxHost]:
    async with open_host(node=True) as opened:
        yield opened


@pytest.fixture
def index() -> Iterator[Index]:
    with open_index() as opened:
        yield opened


def open_private(host: SandboxHost, folder: Path, index: Index, **settings: float) -> PackageTrees:
    return open_trees(host, folder, python_index_url=index.url, build_hosts="", **settings)


def wants(*dependencies: str, source_builds: bool = True, runtime: Runtime = Runtime.PYTHON) -> Manifest:
    return Manifest(runtime=runtime, handler="main.handler", dependencies=dependencies, source_builds=source_builds)


async def test_a_sandbox_that_has_resolved_does_not_install(host: SandboxHost, index: Index, tmp_path: Path) -> None:
    index.add_wheel("greeter", "1.0")
    trees = open_private(host, tmp_path, index)
    async with await trees.sandbox(Runtime.PYTHON, 60.0) as sandbox:
        lock = await sandbox.resolve(("greeter",), source_builds=False)
        with pytest.raises(SandboxUnavailable, match="one step"):
            await sandbox.install(lock, source_builds=False)


async def test_a_lock_that_a_package_has_written_is_not_believed(
    host: SandboxHost, index: Index, tmp_path: Path
) -> None:
    index.files["liar-1.0.tar.gz"] = hostile_sdist("liar", LIES)
    trees = open_private(host, tmp_path, index)
    with pytest.raises(BuildFailed, match=r"--index-url|lock.txt"):
        await trees.resolve(wants("liar"))


async def test_links_that_a_build_leaves_in_its_tree_are_not_followed(
    host: SandboxHost, index: Index, tmp_path: Path
) -> None:
    index.files["linker-1.0.tar.gz"] = hostile_sdist("linker", LINKS)
    trees = open_private(host, tmp_path, index)
    tree = await trees.tree(await trees.resolve(wants("linker")), "fn")
    assert not [path for path in tree.rglob("*") if path.is_symlink() or path.name in ("uv", "up")]
    assert (tree / "linker" / "__init__.py").read_text() == "BUILT = True"


async def test_versions_of_one_function_share_what_was_built_from_source_and_other_functions_do_not(
    host: SandboxHost, index: Index, tmp_path: Path
) -> None:
    index.add_sdist("sourceful", "1.0")
    trees = open_private(host, tmp_path, index)
    lock = await trees.resolve(wants("sourceful"))
    one = await trees.tree(lock, "one")
    asked = len(index.seen)
    assert await trees.tree(lock, "one") == one
    assert len(index.seen) == asked
    assert await trees.tree(lock, "two") != one


async def test_what_npm_scripts_took_part_in_belongs_to_one_function(host: SandboxHost, tmp_path: Path) -> None:
    with open_registry() as registry:
        registry.add("maker", "1.0.0", {"make.js": ""}, scripts={"install": "node make.js"})
        trees = open_trees(host, tmp_path, npm_token=TOKEN, npm_registry_url=registry.url, build_hosts="")
        shared = []
        for allowed in (False, True):
            lock = await trees.resolve(wants("maker", source_builds=allowed, runtime=Runtime.NODE))
            shared.append(await trees.tree(lock, "one") == await trees.tree(lock, "two"))
    assert shared == [True, False]


async def test_two_workers_of_a_machine_build_one_tree_once(host: SandboxHost, index: Index, tmp_path: Path) -> None:
    index.add_sdist("sourceful", "1.0")
    workers = [open_private(host, tmp_path, index) for _ in range(2)]
    lock = await workers[0].resolve(wants("sourceful"))
    sandboxes: list[BuildSandbox] = []
    found = await asyncio.gather(*(trees.tree(lock, "fn", sandboxes.append) for trees in workers))
    assert found[0] == found[1]
    assert len(sandboxes) == 1


async def test_resolving_has_a_limit_of_its_own(host: SandboxHost, index: Index, tmp_path: Path) -> None:
    index.files["slow-1.0.tar.gz"] = hostile_sdist("slow", SLEEPS)
    trees = open_private(host, tmp_path, index)
    trees._resolve_limit_s = 1.0  # the setting starts at 10
    with pytest.raises(BuildFailed, match="timeout"):
        await trees.resolve(wants("slow"))
