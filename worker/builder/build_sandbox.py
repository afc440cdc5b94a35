"""One sandbox that resolves and installs: it has the network of the indexes, and nothing else.

Knows: the events that the functions in `inside_…` take, what may be believed of their answers. Does not know: Redis, the cache.
What is in this sandbox may be hostile (a package built from source): its files come out as bytes, and are written by us as plain files
at paths that were checked. No path inside is ever opened from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

import msgspec

from sandlot.errors import SandboxUnavailable
from sandlot.functions.dependencies import LOCK_LIMIT_BYTES
from sandlot.models import OutcomeKind, Runtime
from worker.builder.indexes import INSIDE, Sources, wanted
from worker.builder.package_files import FILES_LIMIT, BuildFailed, PackageFile, TreeWriter, check_files
from worker.execution import Execution, VersionSpec
from worker.pool.instance import Instance
from worker.pool.verdict import Verdict
from worker.sandbox.host import SandboxHost
from worker.sandbox.spec import SandboxSpec

_IMPORT_LIMIT_S: Final = 20.0
_READ_LIMIT_S: Final = 60.0
_NAME: Final = "sandlot-build"


class BuildSandbox:
    """Open with `async with`; ends with everything in it."""

    def __init__(self, host: SandboxHost, runtime: Runtime, sources: Sources, limit_mib: int, limit_s: float) -> None:
        self._host = host
        self._runtime = runtime
        self._sources = sources
        self._limit_mib = limit_mib
        self._limit_s = limit_s
        self._resident: Instance | None = None
        self._said = ""

    async def __aenter__(self) -> Self:
        # What is downloaded and what is unpacked are in its memory, together; as much again is for the programs.
        tmp_mib = 2 * self._limit_mib + 256
        policy = SandboxSpec(
            memory_limit_mib=tmp_mib + 1024,
            processes=256,
            open_files=1024,
            tmp_mib=tmp_mib,
            network=self._sources.hosts(self._runtime),
            operator_hosts=True,
            cpus=2.0,
        )
        folder, handler = INSIDE[self._runtime]
        spec = VersionSpec(_NAME, 1, "", self._runtime, handler, folder, memory_limit_mib=policy.memory_limit_mib)
        sandbox = await self._host.prewarm(self._runtime, policy)
        self._resident = Instance(sandbox, spec, monotonic(), lambda _resident: None)
        try:
            await sandbox.attach(folder, policy, self._sources.tools[self._runtime])
            await self._import(self._resident)
        except BaseException:
            await self._resident.dispose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._resident is not None:
            await self._resident.dispose()

    def progress(self) -> str:
        """The last line that uv or npm printed."""
        if self._resident is not None:
            lines = self._resident.printed().decode("utf-8", "replace").split("\n")
            said = [line.strip() for line in lines if line.strip()]
            self._said = said[-1] if said else self._said
        return self._sources.without_secrets(self._said)

    async def resolve(self, dependencies: tuple[str, ...], *, source_builds: bool) -> str:
        """The lock of these dependencies.

        Raises:
            BuildFailed: there is none.
        """
        order = {"do": "resolve", "requirements": wanted(self._runtime, dependencies), "source_builds": source_builds}
        lock = (await self._ask(order)).get("lock")
        if not isinstance(lock, str) or len(lock) > LOCK_LIMIT_BYTES:
            raise BuildFailed(f"the dependencies resolve to a list of more than {LOCK_LIMIT_BYTES} bytes")
        return lock

    async def install(self, lock: str, *, source_builds: bool) -> list[PackageFile]:
        """Install what the lock names, inside; the files that came of it, all checked.

        Raises:
            BuildFailed: it could not be, or takes more than it may.
        """
        answer = await self._ask({"do": "install", "lock": lock, "source_builds": source_builds})
        try:
            files = msgspec.convert(answer.get("files"), list[PackageFile])
        except msgspec.ValidationError as error:
            raise BuildFailed(f"the build answered with what is no list of files: {error}") from error
        check_files(files, self._limit_mib)
        return files

    async def copy(self, files: Sequence[PackageFile], folder: Path) -> None:
        """Write what was installed into an empty folder of ours.

        Raises:
            BuildFailed: what comes is not what was announced.
        """
        at, total = 0, sum(file.size_bytes for file in files)
        with TreeWriter(folder, files) as writer:
            while at < total:
                chunk = await self._call({"do": "read", "at": at}, _READ_LIMIT_S)
                at += await asyncio.to_thread(writer.feed, chunk)
            await asyncio.to_thread(writer.finish)

    async def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        event = self._sources.event(self._runtime, files_limit=FILES_LIMIT, **order)
        answer = msgspec.json.decode(await self._call(event, self._limit_s), type=dict[str, Any])
        if "failed" in answer:
            raise BuildFailed(self._sources.without_secrets(str(answer["failed"])))
        return answer

    async def _import(self, resident: Instance) -> None:
        imported: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
        resident.start_import(_IMPORT_LIMIT_S, lambda _resident, verdict, *_rest: _tell(imported, verdict))
        failed = await imported
        if failed is not None:
            raise SandboxUnavailable(f"the build sandbox did not start: {_message(failed)}")

    async def _call(self, event: dict[str, Any], limit_s: float) -> bytes:
        if self._resident is None:
            raise SandboxUnavailable("the build sandbox is not open")
        ended: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        text = msgspec.json.encode(event)
        execution = Execution(_NAME, 1, _NAME, 1, "", text, int(limit_s * 1000))
        if not self._resident.call(execution, lambda _resident, verdict, *_rest: _tell(ended, verdict)):
            raise SandboxUnavailable("the build sandbox ended between two steps")
        verdict = await ended
        if verdict.kind is not OutcomeKind.OK:
            raise BuildFailed(self._sources.without_secrets(f"the build ended as {verdict.kind}: {_message(verdict)}"))
        return verdict.result


def _tell(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():  # whoever waited may have been cancelled
        future.set_result(value)


def _message(verdict: Verdict) -> str:
    return verdict.error.error_message if verdict.error is not None else str(verdict.kind)
