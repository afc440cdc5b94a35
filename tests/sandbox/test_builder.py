"""Dependencies: resolved and built by the real uv and the real npm, in a real strict sandbox, from real indexes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sandlot.functions import Manifest
from sandlot.functions.dependencies import Lock
from sandlot.models import Runtime
from tests.sandbox.npm_registry import TOKEN, Registry, open_registry
from tests.sandbox.package_index import PASSWORD, Index, open_index
from tests.sandbox.pool_rig import Rig, open_host, open_rig, open_trees
from worker.builder.package_files import BuildFailed
from worker.builder.package_trees import PackageTrees
from worker.sandbox.host import SandboxHost

pytestmark = pytest.mark.asyncio(loop_scope="module")

POPULAR = ("numpy", "pandas", "pillow", "pydantic", "httpx", "requests")
SCIENCE = """
import io, sys
import httpx, numpy, pandas, pydantic, requests
from PIL import Image

class Point(pydantic.BaseModel):
    x: int

def handler(event, context):
    picture = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(picture, "PNG")
    frame = pandas.DataFrame({"n": event})
    return {
        "mean": float(numpy.mean(event)),
        "sum": int(frame.n.sum()),
        "png": picture.getvalue()[1:4].decode(),
        "point": Point.model_validate_json('{"x": 3}').x,
        "request": httpx.Request("GET", "https://a.example/?b=1").url.query.decode(),
        "prepared": requests.Request("GET", "https://a.example").prepare().url,
        "from": pandas.__file__,
        "cached": pandas.__cached__.endswith(".pyc"),
    }
"""
LOOKS = """
import greeter, os, sys

def handler(event, context):
    try:
        open("/packages/greeter/__init__.py", "w")
    except OSError as error:
        return [greeter.VERSION, sys.path[-1], error.strerror, os.environ["OPENBLAS_NUM_THREADS"], os.environ["OMP_NUM_THREADS"]]
"""
LODASH = """
const _ = require("lodash");
exports.handler = async (event) => {
  const dayjs = (await import("dayjs")).default;
  return { chunks: _.chunk(event, 2), day: dayjs("2026-01-02").format("DD/MM/YYYY") };
};
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host() -> AsyncIterator[SandboxHost]:
    async with open_host(node=True) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(host: SandboxHost) -> AsyncIterator[Rig]:
    async with open_rig(host, import_limit_s=60.0) as opened:
        yield opened


@pytest.fixture
def index() -> Iterator[Index]:
    with open_index() as opened:
        yield opened


@pytest.fixture
def registry() -> Iterator[Registry]:
    with open_registry() as opened:
        yield opened


def private(host: SandboxHost, folder: Path, index: Index, **settings: Any) -> PackageTrees:
    return open_trees(host, folder, python_index_url=index.url, build_hosts="", **settings)


def private_npm(host: SandboxHost, folder: Path, registry: Registry, **settings: Any) -> PackageTrees:
    settings = {"npm_token": TOKEN, "npm_registry_url": registry.url, "build_hosts": ""} | settings
    return open_trees(host, folder, **settings)


def wants(*dependencies: str, runtime: Runtime = Runtime.PYTHON, source_builds: bool = False) -> Manifest:
    return Manifest(runtime=runtime, handler="main.handler", dependencies=dependencies, source_builds=source_builds)


def contents(folder: Path) -> bytes:
    """Everything that was written there, but uv itself."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "uv")


async def resolve(trees: PackageTrees, manifest: Manifest) -> Lock:
    return await trees.resolve(manifest)


@pytest.mark.slow
@pytest.mark.timeout(400)  # 200 MiB are fetched, compiled and copied; a loaded machine takes its time
async def test_popular_packages_work_in_a_strict_sandbox_and_are_imported_once(
    host: SandboxHost, rig: Rig, tmp_path: Path
) -> None:
    trees = open_trees(host, tmp_path)
    tree = await trees.tree(await resolve(trees, wants(*POPULAR)), "fn")
    assert {path.name for path in (tree / "numpy").rglob("tests")} == {"tests"}
    assert not [path for path in tree.rglob("*.pyc") if "tests" in path.parts]
    rig.write(SCIENCE, name="science", packages_dir=tree)
    first = await rig.run("science", [1, 2, 3])
    assert first.kind == "ok", first
    assert b'"level":"strict"' in first.receipt
    answer = await rig.value("science", [1, 2, 3])
    assert answer == {
        "mean": 2.0, "sum": 6, "png": "PNG", "point": 3, "request": "b=1", "prepared": "https://a.example/",
        "from": "/packages/pandas/__init__.py", "cached": True,
    }  # fmt: skip
    again = await rig.run("science", [4])
    assert first.timings.import_ > 0
    assert again.timings.import_ == 0


@pytest.mark.slow
async def test_two_packages_of_npm_work_with_require_and_with_import(
    host: SandboxHost, rig: Rig, tmp_path: Path
) -> None:
    trees = open_trees(host, tmp_path)
    lock = await resolve(trees, wants("lodash@^4", "dayjs", runtime=Runtime.NODE))
    assert lock.text.count('"integrity": "sha512-') == 2
    rig.write(LODASH, runtime=Runtime.NODE, name="greet", packages_dir=await trees.tree(lock, "fn"))
    assert await rig.value("greet", [1, 2, 3]) == {"chunks": [[1, 2], [3]], "day": "02/01/2026"}


@pytest.mark.slow
async def test_a_private_index_is_asked_with_credentials_that_are_nowhere_afterwards(
    host: SandboxHost, rig: Rig, index: Index, tmp_path: Path
) -> None:
    index.add_wheel("greeter", "1.0")
    index.add_wheel("greeter", "1.2")
    trees = private(host, tmp_path, index)
    lock = await resolve(trees, wants("greeter<2"))
    assert re.search(r"greeter==1\.2 \\\n +--hash=sha256:[0-9a-f]{64}", lock.text)
    tree = await trees.tree(lock, "fn")
    rig.write("import greeter\ndef handler(e, c): return greeter.VERSION\n", name="private", packages_dir=tree)
    assert await rig.value("private") == "1.2"
    kept = contents(tmp_path)
    assert PASSWORD not in lock.text
    assert PASSWORD.encode() not in kept
    assert PASSWORD not in repr(trees._indexes)


@pytest.mark.slow
async def test_a_private_registry_is_asked_with_a_token_that_is_nowhere_afterwards(
    host: SandboxHost, rig: Rig, registry: Registry, tmp_path: Path
) -> None:
    registry.add("@acme/greeter", "1.2.0", {"index.js": "module.exports = '1.2'"})
    trees = private_npm(host, tmp_path, registry)
    lock = await resolve(trees, wants("@acme/greeter@^1", runtime=Runtime.NODE))
    assert '"integrity": "sha512-' in lock.text
    tree = await trees.tree(lock, "fn")
    source = "exports.handler = () => require('@acme/greeter')"
    rig.write(source, runtime=Runtime.NODE, name="private-npm", packages_dir=tree)
    assert await rig.value("private-npm") == "1.2"
    assert TOKEN not in lock.text
    assert TOKEN.encode() not in contents(tmp_path)
    assert TOKEN not in repr(trees._indexes)


@pytest.mark.slow
async def test_a_wrong_token_is_reported_without_the_token(
    host: SandboxHost, registry: Registry, tmp_path: Path
) -> None:
    registry.add("greeter", "1.0.0", {})
    trees = private_npm(host, tmp_path, registry, npm_token="npm_wrong-horse")
    with pytest.raises(BuildFailed, match=r"E401|Unauthorized") as failed:
        await resolve(trees, wants("greeter", runtime=Runtime.NODE))
    assert "wrong-horse" not in failed.value.message


@pytest.mark.slow
async def test_npm_install_scripts_run_only_if_the_manifest_allows_it(
    host: SandboxHost, registry: Registry, tmp_path: Path
) -> None:
    script = "require('fs').writeFileSync('made.txt', 'made')"
    registry.add("maker", "1.0.0", {"make.js": script}, scripts={"install": "node make.js"})
    trees = private_npm(host, tmp_path, registry)
    made = []
    for allowed in (False, True):
        lock = await resolve(trees, wants("maker", runtime=Runtime.NODE, source_builds=allowed))
        made.append((await trees.tree(lock, "fn") / "node_modules" / "maker" / "made.txt").exists())
    assert made == [False, True]


@pytest.mark.slow
async def test_unresolvable_dependencies_fail_with_the_resolvers_message(
    host: SandboxHost, index: Index, tmp_path: Path
) -> None:
    index.add_wheel("greeter", "1.0")
    trees = private(host, tmp_path, index)
    with pytest.raises(BuildFailed, match=r"there is no version of greeter|greeter>=5") as failed:
        await resolve(trees, wants("greeter>=5"))
    assert PASSWORD not in failed.value.message
    with pytest.raises(BuildFailed, match="missing-package was not found"):
        await resolve(trees, wants("missing-package"))


@pytest.mark.slow
async def test_a_wrong_password_is_reported_without_the_password(
    host: SandboxHost, index: Index, tmp_path: Path
) -> None:
    index.add_wheel("greeter", "1.0")
    wrong = index.url.replace(PASSWORD, "wrong-horse")
    trees = open_trees(host, tmp_path, python_index_url=wrong, build_hosts="")
    with pytest.raises(BuildFailed, match=r"401|credentials") as failed:
        await resolve(trees, wants("greeter"))
    assert "wrong-horse" not in failed.value.message


@pytest.mark.slow
async def test_another_machine_builds_from_the_lock_alone_even_if_there_is_something_newer(
    host: SandboxHost, rig: Rig, index: Index, tmp_path: Path
) -> None:
    index.add_wheel("greeter", "1.0")
    lock = await resolve(private(host, tmp_path / "one", index), wants("greeter"))
    index.add_wheel("greeter", "2.0")
    tree = await private(host, tmp_path / "two", index).tree(lock, "fn")
    assert "1.0" in (tree / "greeter" / "__init__.py").read_text()
    assert (tree / "greeter" / "empty.txt").read_bytes() == b""
    assert not [path for path in tree.rglob("*") if path.is_symlink() or path.stat().st_mode & 0o222]
    rig.write(LOOKS, name="looks", packages_dir=tree)
    assert await rig.value("looks") == ["1.0", "/packages", "Read-only file system", "1", "1"]


@pytest.mark.slow
async def test_a_file_that_is_not_what_was_locked_is_not_installed(
    host: SandboxHost, index: Index, tmp_path: Path
) -> None:
    index.add_wheel("greeter", "1.0")
    lock = await resolve(private(host, tmp_path / "one", index), wants("greeter"))
    index.add_wheel("greeter", "1.0", "print('something else')\n")
    trees = private(host, tmp_path / "two", index)
    with pytest.raises(BuildFailed, match="Hash mismatch"):
        await trees.tree(lock, "fn")
    assert [path.name for path in (tmp_path / "two" / "cache").iterdir() if not path.name.startswith(".")] == []


@pytest.mark.slow
async def test_a_package_is_built_from_source_only_if_the_manifest_allows_it(
    host: SandboxHost, rig: Rig, index: Index, tmp_path: Path
) -> None:
    index.add_sdist("sourceful", "1.0")
    trees = private(host, tmp_path, index)
    with pytest.raises(BuildFailed, match=r"no usable wheels|no wheels"):
        await resolve(trees, wants("sourceful"))
    lock = await resolve(trees, wants("sourceful", source_builds=True))
    rig.write(
        "import sourceful\ndef handler(e, c): return sourceful.BUILT\n",
        name="source",
        packages_dir=await trees.tree(lock, "fn"),
    )
    assert await rig.value("source") is True


@pytest.mark.slow
async def test_packages_that_take_more_than_they_may_are_refused_with_the_limit(
    host: SandboxHost, index: Index, tmp_path: Path
) -> None:
    index.add_wheel("greeter", "1.0", "# " + "x" * (17 * 1024 * 1024))
    trees = private(host, tmp_path, index, packages_limit_mib=16)
    lock = await resolve(trees, wants("greeter"))
    with pytest.raises(BuildFailed, match=r"take \d+ MiB once installed; at most 16 are allowed"):
        await trees.tree(lock, "fn")


@pytest.mark.slow
async def test_a_build_reaches_no_host_that_the_operator_has_not_named(
    host: SandboxHost, index: Index, tmp_path: Path
) -> None:
    """The index is allowed, its neighbour on another port is not."""
    index.add_wheel("greeter", "1.0")
    trees = private(host, tmp_path, index)
    with open_index() as other:
        other.add_wheel("greeter", "1.0")
        trees._indexes = dataclasses.replace(trees._indexes, python_index=index.url)
        async with await trees.sandbox(Runtime.PYTHON, 60.0) as sandbox:
            sandbox._indexes = dataclasses.replace(trees._indexes, python_index=other.url)
            with pytest.raises(BuildFailed, match="403"):
                await sandbox.resolve(("greeter",), source_builds=False)
        assert other.seen == []
