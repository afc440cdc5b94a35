"""A pool on a real sandbox host, functions written on the spot, and invocations awaited one by one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from sandlot.errors import SandlotError
from sandlot.models import Isolation, Outcome, Runtime
from sandlot.settings import Settings, load_settings
from tests.sandbox.runtime_process import RUNTIMES, find_node, node_flags
from tests.waiting import HANG_S
from worker.builder.indexes import read_indexes
from worker.builder.package_trees import PackageTrees
from worker.disk_cache import DiskCache
from worker.execution import Execution, VersionSpec
from worker.pool import Pool
from worker.sandbox.host import SandboxHost
from worker.sandbox.spec import Level, find_node_runtime, find_python_runtime

PATIENCE_S = HANG_S
"""A deadline for a hang, not a measurement."""

FUNCTIONS = Path(__file__).parents[1] / "functions"


@contextlib.asynccontextmanager
async def open_host(*, node: bool = False, level: Level = "strict") -> AsyncIterator[SandboxHost]:
    """The best level this machine gives, with Python and, if asked for, Node."""
    runtimes = [find_python_runtime(RUNTIMES / "python")]
    if node:
        runtimes.append(find_node_runtime(RUNTIMES / "node", Path(find_node()), tuple(node_flags())))
    folder = Path(tempfile.mkdtemp(prefix="sandlot-test-"))
    os.chmod(folder, 0o755)  # noqa: S103 -- the sandbox's user is another one
    try:
        async with await SandboxHost.open(level=level, runtimes=runtimes, state_dir=folder) as host:
            yield host
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Rig:
    """One pool and the functions it knows. Open with `open_rig`."""

    def __init__(self, host: SandboxHost, folder: Path, **settings: Any) -> None:
        self.specs: dict[tuple[str, str], VersionSpec] = {}
        self.asked: list[tuple[str, str]] = []
        self.pool = Pool(host, self._spec_of, **{"slots": 8, **settings})
        self._folder = folder
        self._numbers = itertools.count(1)

    def write(
        self, source: str, *, runtime: Runtime = Runtime.PYTHON, name: str = "fn", version: int = 1, **spec: Any
    ) -> str:
        """Deploy a one-file function; its name."""
        bundle = Path(tempfile.mkdtemp(dir=self._folder))
        os.chmod(bundle, 0o755)  # noqa: S103 -- the sandbox's user is another one
        (bundle / ("main.py" if runtime is Runtime.PYTHON else "index.js")).write_text(source)
        self.specs[name, f"digest-{version}"] = VersionSpec(
            function=name,
            version=version,
            digest=f"digest-{version}",
            runtime=runtime,
            handler="",
            bundle_dir=bundle,
            **spec,
        )
        return name

    def write_file(self, path: str, **spec: Any) -> str:
        """Deploy one of `tests/functions`, by path."""
        runtime = Runtime.PYTHON if path.endswith(".py") else Runtime.NODE
        name = path.replace("/", "-").replace("_", "-").rsplit(".", 1)[0]
        return self.write((FUNCTIONS / path).read_text(), runtime=runtime, name=name, **spec)

    def start(
        self, name: str, event: object = None, *, wall_s: float = 20.0, version: int = 1, **execution: Any
    ) -> asyncio.Future[Outcome]:
        """Start an invocation; the future is its outcome, or the platform's error. Its job id is `future.job_id`."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        job_id = f"job-{next(self._numbers)}"
        future.job_id = job_id  # type: ignore[attr-defined]

        def done(given: Execution, ended: Outcome | SandlotError) -> None:
            assert given.job_id == job_id
            assert not future.done(), "done was called twice"
            if isinstance(ended, Outcome):
                future.set_result(ended)
            else:
                future.set_exception(ended)

        text = event if isinstance(event, bytes) else json.dumps(event).encode()
        self.pool.start(
            Execution(job_id, 1, name, version, f"digest-{version}", text, int(wall_s * 1000), **execution), done
        )
        return future

    async def run(self, name: str, event: object = None, **options: Any) -> Outcome:
        async with asyncio.timeout(PATIENCE_S):
            return await self.start(name, event, **options)

    async def value(self, name: str, event: object = None, **options: Any) -> Any:
        """The decoded result of an invocation that must succeed."""
        outcome = await self.run(name, event, **options)
        assert outcome.kind == "ok", outcome
        return json.loads(outcome.result)

    async def _spec_of(self, function: str, digest: str) -> VersionSpec:
        self.asked.append((function, digest))
        await asyncio.sleep(0)
        return self.specs[function, digest]


@contextlib.asynccontextmanager
async def open_rig(host: SandboxHost, **settings: Any) -> AsyncIterator[Rig]:
    folder = Path(tempfile.mkdtemp(prefix="sandlot-bundles-"))
    os.chmod(folder, 0o755)  # noqa: S103 -- the sandbox's user is another one
    rig = Rig(host, folder, **settings)
    await rig.pool.open()
    try:
        yield rig
    finally:
        await rig.pool.close()
        shutil.rmtree(folder, ignore_errors=True)


def open_trees(host: SandboxHost, folder: Path, **settings: Any) -> PackageTrees:
    loaded: Settings = load_settings(data=folder, **settings)
    cache = DiskCache(folder / "cache", loaded.cache_limit_mib)
    cache.prune()
    indexes = read_indexes(loaded, Path(find_node()))
    return PackageTrees(
        host,
        indexes,
        cache,
        limit_mib=loaded.packages_limit_mib,
        resolve_limit_s=loaded.resolve_limit_s,
        install_limit_s=loaded.build_limit_s,
    )


def isolations() -> Mapping[str, Isolation]:
    return {isolation.value: isolation for isolation in Isolation}
