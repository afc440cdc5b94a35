"""A sandbox that resolves or installs packages; it reaches the package indexes and nothing else.

The code in this sandbox may be hostile (a package built from source). Its files therefore leave it
as bytes, and the worker writes them as plain files at paths that it has checked. The worker never
opens a path inside the sandbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

import msgspec

from sandlot.errors import SandboxUnavailable
from sandlot.models import OutcomeKind, Runtime
from worker.builder.indexes import INSIDE, PackageIndexes, requirements_of
from worker.builder.lock_check import check_lock
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
    """An async context manager around one sandbox; leaving it kills everything inside.

    It serves one step, resolving or installing, and never both: code of a package that ran while
    the dependencies were resolved could have left a process or a file that changes what is
    installed.
    """

    def __init__(
        self, host: SandboxHost, runtime: Runtime, indexes: PackageIndexes, limit_mib: int, limit_s: float
    ) -> None:
        self._host = host
        self._runtime = runtime
        self._indexes = indexes
        self._limit_mib = limit_mib
        self._limit_s = limit_s
        self._instance: Instance | None = None
        self._last_line = ""
        self._used = False

    async def __aenter__(self) -> Self:
        # Downloaded and unpacked files share the sandbox's tmpfs, hence twice the limit; the rest
        # of the memory is for the programs themselves.
        tmp_mib = 2 * self._limit_mib + 256
        sandbox_spec = SandboxSpec(
            memory_limit_mib=tmp_mib + 1024,
            processes=256,
            open_files=1024,
            tmp_mib=tmp_mib,
            network=self._indexes.hosts(self._runtime),
            operator_hosts=True,
            cpus=2.0,
        )
        folder, handler = INSIDE[self._runtime]
        spec = VersionSpec(_NAME, 1, "", self._runtime, handler, folder, memory_limit_mib=sandbox_spec.memory_limit_mib)
        sandbox = await self._host.prewarm(self._runtime, sandbox_spec)
        self._instance = Instance(sandbox, spec, monotonic(), lambda _instance: None)
        try:
            await sandbox.attach(folder, sandbox_spec, self._indexes.tools[self._runtime])
            await self._import(self._instance)
        except BaseException:
            await self._instance.dispose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._instance is not None:
            await self._instance.dispose()

    def progress(self) -> str:
        """Return the last line that uv or npm printed, without credentials."""
        if self._instance is not None:
            lines = self._instance.take_output().decode("utf-8", "replace").split("\n")
            filled = [line.strip() for line in lines if line.strip()]
            self._last_line = filled[-1] if filled else self._last_line
        return self._indexes.without_secrets(self._last_line)

    async def resolve(self, dependencies: tuple[str, ...], *, source_builds: bool) -> str:
        """Return the text of the lock for these dependencies.

        Raises:
            BuildFailed: they cannot be resolved, or the lock is too long or unsafe to install from.
        """
        requirements = requirements_of(self._runtime, dependencies)
        request = {"do": "resolve", "requirements": requirements, "source_builds": source_builds}
        self._begin_step()
        return check_lock(self._runtime, (await self._request(request)).get("lock"))

    async def install(self, lock: str, *, source_builds: bool) -> list[PackageFile]:
        """Install the packages of the lock inside the sandbox and return their files, all checked.

        Raises:
            BuildFailed: the installation failed, or its files exceed a limit.
        """
        self._begin_step()
        reply = await self._request({"do": "install", "lock": lock, "source_builds": source_builds})
        try:
            files = msgspec.convert(reply.get("files"), list[PackageFile])
        except msgspec.ValidationError as error:
            raise BuildFailed(f"the build did not answer with a list of files: {error}") from error
        check_files(files, self._limit_mib)
        return files

    async def copy(self, files: Sequence[PackageFile], folder: Path) -> None:
        """Copy the installed files out of the sandbox into an empty folder of the worker's.

        Raises:
            BuildFailed: the bytes that arrive do not match the announced files.
        """
        at, total = 0, sum(file.size_bytes for file in files)
        with TreeWriter(folder, files) as writer:
            while at < total:
                chunk = await self._invoke({"do": "read", "at": at}, _READ_LIMIT_S)
                at += await asyncio.to_thread(writer.feed, chunk)
            await asyncio.to_thread(writer.finish)

    def _begin_step(self) -> None:
        if self._used:
            raise SandboxUnavailable("a build sandbox serves one step, and this one has served it")
        self._used = True

    async def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        event = self._indexes.event(self._runtime, files_limit=FILES_LIMIT, **request)
        reply = msgspec.json.decode(await self._invoke(event, self._limit_s), type=dict[str, Any])
        if "failed" in reply:
            raise BuildFailed(self._indexes.without_secrets(str(reply["failed"])))
        return reply

    async def _import(self, instance: Instance) -> None:
        imported: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
        instance.start_import(_IMPORT_LIMIT_S, lambda _instance, verdict, *_rest: _set_result(imported, verdict))
        failed = await imported
        if failed is not None:
            raise SandboxUnavailable(f"the build sandbox did not start: {_message(failed)}")

    async def _invoke(self, event: dict[str, Any], limit_s: float) -> bytes:
        if self._instance is None:
            raise SandboxUnavailable("the build sandbox is not open")
        ended: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        text = msgspec.json.encode(event)
        execution = Execution(_NAME, 1, _NAME, 1, "", text, int(limit_s * 1000))
        if not self._instance.call(execution, lambda _instance, verdict, *_rest: _set_result(ended, verdict)):
            raise SandboxUnavailable("the build sandbox ended between two steps")
        verdict = await ended
        if verdict.kind is not OutcomeKind.OK:
            raise BuildFailed(self._indexes.without_secrets(f"the build ended as {verdict.kind}: {_message(verdict)}"))
        return verdict.result


def _set_result(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():  # the waiting task may have been cancelled
        future.set_result(value)


def _message(verdict: Verdict) -> str:
    return verdict.error.error_message if verdict.error is not None else str(verdict.kind)
