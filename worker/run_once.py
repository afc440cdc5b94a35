"""`python -m worker.run_once PATH`: run a function once, here, in the sandbox that a worker would give it, with no server at all.

The event comes on stdin; one JSON document goes to stdout, a `Ran` or a `Refused`. Exits with 0 whatever the call did: the document is the answer.
Knows: what a pool needs to run one call. Does not know: Redis, HTTP, how its document is shown.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from sandlot.errors import SandlotError, SecretNotFound
from sandlot.functions import Manifest, Version, find_node, read_function
from sandlot.models import Evidence, FunctionError, Outcome, OutcomeKind, Timings, describe
from sandlot.settings import Settings, load_settings
from sandlot.strict_json import check_json
from worker.__main__ import runtime_commands
from worker.builder.indexes import read_indexes
from worker.builder.package_trees import PackageTrees
from worker.bundle_cache import spec_of, write_bundle
from worker.disk_cache import DiskCache
from worker.execution import Execution, VersionSpec
from worker.middleware.redaction import masked
from worker.pool import Pool
from worker.sandbox.host import SandboxHost

JOB_ID: Final = "local"
_DIGEST: Final = "0" * 64


class Ran(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the call ended; `value` only if that was well, `detail` only if not."""

    outcome: OutcomeKind
    version: str = "local"
    timings: Timings
    logs: str
    sandbox: msgspec.Raw
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    detail: str = ""
    error: FunctionError | None = None
    evidence: Evidence | None = None


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing was run: the code of an error, and what it says."""

    code: str
    detail: str


def main() -> int:
    try:
        answer: Ran | Refused = asyncio.run(
            run(Path(sys.argv[1]), sys.stdin.buffer.read(), load_settings(), os.environ)
        )
    except SandlotError as error:
        answer = Refused(code=error.code, detail=error.message)
    except KeyboardInterrupt:
        return 130
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


async def run(path: Path, event: bytes, settings: Settings, variables: Mapping[str, str]) -> Ran:
    """Call the function in this file, folder or zip once.

    Args:
        variables: has the values of the secrets that the function names, under their names.

    Raises:
        CallerError: there is no function at the path, the event is not JSON, or a secret or a wall is missing.
        OperatorError: no sandbox holds here, or there is no such runtime.
    """
    check_json(event)
    name, bundle, manifest = await asyncio.to_thread(read_function, path, node=find_node(settings.node))
    secrets = _secrets(manifest, variables)
    with _folder() as folder:
        version = Version(function=name, number=1, digest=_DIGEST, manifest=manifest, placement="", created_ms=0)
        files = folder / "function"
        await asyncio.to_thread(write_bundle, bundle, files)
        spec = dataclasses.replace(spec_of(version, files), secrets=secrets)
        outcome = await _outcome(spec, event, manifest, settings, folder)
    return _told(masked(outcome, secrets.values()))


async def _outcome(spec: VersionSpec, event: bytes, manifest: Manifest, settings: Settings, folder: Path) -> Outcome:
    async def the_spec(_function: str, _digest: str) -> VersionSpec:
        return spec

    runtimes = [command for command in runtime_commands(settings) if command.name == spec.runtime.value]
    async with await SandboxHost.open(level=settings.sandbox, runtimes=runtimes, state_dir=folder / "state") as host:
        if manifest.dependencies:
            spec = dataclasses.replace(spec, packages_dir=await _packages(host, manifest, settings))
        pool = Pool(host, the_spec, slots=1, blanks=1)
        await pool.open()
        try:
            wall_limit_ms = round(manifest.timeout_s * 1000)
            return await _call(
                pool, Execution(JOB_ID, 1, spec.function, spec.version, spec.digest, event, wall_limit_ms)
            )
        finally:
            await pool.close()


async def _packages(host: SandboxHost, manifest: Manifest, settings: Settings) -> Path:
    """What it depends on, resolved now, and built unless the cache in the data folder has it."""
    cache = DiskCache(settings.data / "cache", settings.cache_limit_mib)
    await asyncio.to_thread(cache.prune)
    indexes = read_indexes(settings, find_node(settings.node))
    trees = PackageTrees(host, indexes, cache, limit_mib=settings.packages_limit_mib, limit_s=settings.build_limit_s)
    async with await trees.sandbox(manifest.runtime) as sandbox:
        return await trees.tree(await trees.resolve(manifest, sandbox))


async def _call(pool: Pool, execution: Execution) -> Outcome:
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def done(_execution: Execution, how: Outcome | SandlotError) -> None:
        if isinstance(how, Outcome):
            ended.set_result(how)
        else:
            ended.set_exception(how)

    pool.start(execution, done)
    return await ended


def _secrets(manifest: Manifest, variables: Mapping[str, str]) -> dict[str, str]:
    missing = [name for name in manifest.secrets if not variables.get(name)]
    if missing:
        raise SecretNotFound(
            f"the function needs the secret {missing[0]}: here, without a server, it is the variable of that name. Set it: {missing[0]}=… sandlot run …"
        )
    return {name: variables[name] for name in manifest.secrets}


@contextmanager
def _folder() -> Iterator[Path]:
    """Where a sandbox of another uid gets at what lies below; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="sandlot-run-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "function").mkdir()
        yield folder


def _told(outcome: Outcome) -> Ran:
    fine = outcome.kind is OutcomeKind.OK
    return Ran(
        outcome=outcome.kind,
        timings=outcome.timings,
        logs=outcome.logs.decode("utf-8", "replace"),
        sandbox=msgspec.Raw(outcome.receipt),
        value=msgspec.Raw(outcome.result) if fine else msgspec.UNSET,
        detail="" if fine else describe(outcome.kind, outcome.error, outcome.evidence),
        error=outcome.error,
        evidence=outcome.evidence,
    )


if __name__ == "__main__":
    sys.exit(main())
