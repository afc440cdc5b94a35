"""`python -m worker.run_once PATH`: run a function once in a worker's sandbox, without a server.

It reads the event from stdin and writes one JSON document to stdout, a `LocalRun` or a
`LocalFailure`. The exit status is 0 whatever the function did.
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


class LocalRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of the call, with `value` if it succeeded and `detail` if it did not."""

    outcome: OutcomeKind
    version: str = "local"
    timings: Timings
    logs: str
    sandbox: msgspec.Raw
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    detail: str = ""
    error: FunctionError | None = None
    evidence: Evidence | None = None


class LocalFailure(msgspec.Struct, frozen=True, kw_only=True):
    """The code and message of the error that kept the function from running."""

    code: str
    detail: str


def main() -> int:
    try:
        document: LocalRun | LocalFailure = asyncio.run(
            run(Path(sys.argv[1]), sys.stdin.buffer.read(), load_settings(), os.environ)
        )
    except SandlotError as error:
        document = LocalFailure(code=error.code, detail=error.message)
    except KeyboardInterrupt:
        return 130
    sys.stdout.buffer.write(msgspec.json.encode(document))
    return 0


async def run(path: Path, event: bytes, settings: Settings, variables: Mapping[str, str]) -> LocalRun:
    """Call the function in a file, folder or zip once.

    Args:
        variables: environment variables, which must include the secrets that the function names.

    Raises:
        CallerError: the path holds no function, the event is not JSON, or a secret or a required
            isolation feature is missing.
        OperatorError: no sandbox works here, or the runtime is not installed.
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
    return _local_run(masked(outcome, secrets.values()))


async def _outcome(spec: VersionSpec, event: bytes, manifest: Manifest, settings: Settings, folder: Path) -> Outcome:
    async def find_spec(_function: str, _digest: str) -> VersionSpec:
        return spec

    runtimes = [command for command in runtime_commands(settings) if command.name == spec.runtime.value]
    async with await SandboxHost.open(level=settings.sandbox, runtimes=runtimes, state_dir=folder / "state") as host:
        if manifest.dependencies:
            spec = dataclasses.replace(spec, packages_dir=await _packages(host, spec.function, manifest, settings))
        pool = Pool(host, find_spec, slots=1, prewarmed=1)
        await pool.open()
        try:
            wall_limit_ms = round(manifest.timeout_s * 1000)
            return await _run_in_pool(
                pool, Execution(JOB_ID, 1, spec.function, spec.version, spec.digest, event, wall_limit_ms)
            )
        finally:
            await pool.close()


async def _packages(host: SandboxHost, function: str, manifest: Manifest, settings: Settings) -> Path:
    """Resolve the dependencies now, and build them unless the cache in the data folder has them."""
    cache = DiskCache(settings.data / "cache", settings.cache_limit_mib)
    await asyncio.to_thread(cache.prune)
    indexes = read_indexes(settings, find_node(settings.node))
    trees = PackageTrees(
        host,
        indexes,
        cache,
        limit_mib=settings.packages_limit_mib,
        resolve_limit_s=settings.resolve_limit_s,
        install_limit_s=settings.build_limit_s,
    )
    # A deployed function's name has no colon, so its trees and those of local runs stay apart.
    return await trees.tree(await trees.resolve(manifest), f"local:{function}")


async def _run_in_pool(pool: Pool, execution: Execution) -> Outcome:
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def on_end(_execution: Execution, result: Outcome | SandlotError) -> None:
        if isinstance(result, Outcome):
            ended.set_result(result)
        else:
            ended.set_exception(result)

    pool.start(execution, on_end)
    return await ended


def _secrets(manifest: Manifest, variables: Mapping[str, str]) -> dict[str, str]:
    missing = [name for name in manifest.secrets if not variables.get(name)]
    if missing:
        raise SecretNotFound(
            f"the function needs the secret {missing[0]}: without a server, it is read from the variable of that name. "
            f"Set it: {missing[0]}=… sandlot run …"
        )
    return {name: variables[name] for name in manifest.secrets}


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a temporary folder that a sandbox with another uid can enter."""
    with tempfile.TemporaryDirectory(prefix="sandlot-run-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "function").mkdir()
        yield folder


def _local_run(outcome: Outcome) -> LocalRun:
    succeeded = outcome.kind is OutcomeKind.OK
    return LocalRun(
        outcome=outcome.kind,
        timings=outcome.timings,
        logs=outcome.logs.decode("utf-8", "replace"),
        sandbox=msgspec.Raw(outcome.receipt),
        value=msgspec.Raw(outcome.result) if succeeded else msgspec.UNSET,
        detail="" if succeeded else describe(outcome.kind, outcome.error, outcome.evidence),
        error=outcome.error,
        evidence=outcome.evidence,
    )


if __name__ == "__main__":
    sys.exit(main())
