"""The machine's sandboxes: the level that holds, and one zygote per runtime."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Self

from sandlot.errors import IsolationMissing, RuntimeUnavailable, SandboxUnavailable
from worker.sandbox.sandbox import Sandbox
from worker.sandbox.selftest.verify import ProbeResult, remedy_for, require_isolation
from worker.sandbox.spec import Level, RuntimeCommand, SandboxSpec
from worker.sandbox.uids import reserve_block
from worker.sandbox.zygote import ownership
from worker.sandbox.zygote_client import ZygoteClient

PREFIX: Final = "sandboxes-"
log: Final = logging.getLogger(__name__)


class SandboxHost:
    """The zygotes of this machine, one per runtime, at one level.

    `open` fails closed: it starts nothing that did not withstand an attack. `close` leaves no
    process and no file behind.
    """

    def __init__(
        self, level: Level, runtimes: Sequence[RuntimeCommand], folder: Path, missing: tuple[str, ...] = ()
    ) -> None:
        self.level = level
        self.runtimes = frozenset(runtime.name for runtime in runtimes)
        self.why_not_strict = "" if level == "strict" else "SANDLOT_SANDBOX=restricted asks for such sandboxes"
        """The reason why the level is not strict, with the remedy; empty if it is."""
        self.probes: dict[str, list[ProbeResult]] = {}
        """The results of the last attack on a sandbox, by runtime."""
        self._commands = {runtime.name: runtime for runtime in runtimes}
        self._folder = folder
        self._missing = missing
        self._clients: dict[str, ZygoteClient] = {}
        self._uids: dict[str, int] = {}
        self._locks: dict[str, socket.socket] = {}
        self._restarts: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    @classmethod
    async def open(
        cls,
        *,
        level: Literal["auto", "strict", "restricted"],
        runtimes: Sequence[RuntimeCommand],
        state_dir: Path,
        missing: tuple[str, ...] = (),
    ) -> SandboxHost:
        """Start the zygotes at the best level that holds, as attacks on their sandboxes show.

        Args:
            level: `auto` is strict, or else restricted with a warning.
            state_dir: a folder of the worker's own; mount points are made in it and removed again.
            missing: isolation features to leave out, for tests that check that the attack notices.

        Raises:
            SandboxUnavailable: no permitted level holds here; the message names the missing feature
                and the remedy.
        """
        if level != "auto":
            return await cls._open_at(level, runtimes, state_dir, missing)
        try:
            return await cls._open_at("strict", runtimes, state_dir, missing)
        except SandboxUnavailable as strict:
            try:
                host = await cls._open_at("restricted", runtimes, state_dir, missing)
            except SandboxUnavailable as restricted:
                raise SandboxUnavailable(
                    f"no sandbox holds on this machine, so nothing will be run. {strict.message}. {restricted.message}"
                ) from restricted
            host.why_not_strict = strict.message
            log.warning("sandbox_restricted", extra={"reason": strict.message})
            return host

    @classmethod
    async def _open_at(
        cls, level: Level, runtimes: Sequence[RuntimeCommand], state_dir: Path, missing: tuple[str, ...]
    ) -> SandboxHost:
        host = cls(level, runtimes, _make_folder(state_dir), missing)
        opening = [asyncio.ensure_future(host._open_client(name)) for name in host._commands]
        try:
            await asyncio.gather(*opening)
        except BaseException:
            for task in opening:
                task.cancel()
            # The first failure is reported; the other tasks close their zygotes.
            await asyncio.gather(*opening, return_exceptions=True)
            await host.close()
            raise
        return host

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def _open_client(self, name: str) -> None:
        """Start one zygote, and accept it only if a sandbox of it withstands the attack."""
        folder = self._folder / name
        folder.mkdir(mode=0o755, exist_ok=True)
        client = ZygoteClient(
            self._commands[name], self.level, folder, self._uid_base(name), self._replace_zygote, self._missing
        )
        try:
            await _open_client_or_explain(client)
            self.probes[name] = await require_isolation(client)
        except BaseException:
            await client.close()
            raise
        self._clients[name] = client

    def _uid_base(self, name: str) -> int:
        """Return the first uid of this runtime's sandboxes; 0 if the worker is not root."""
        if os.geteuid() != 0:
            return 0
        if name not in self._locks:
            self._uids[name], self._locks[name] = reserve_block()
        return self._uids[name]

    def _replace_zygote(self, client: ZygoteClient) -> None:
        """Start another zygote in the place of one that died, and its sandboxes with it."""
        name = client.runtime.name
        if self._closing or self._clients.get(name) is not client:
            return
        log.warning("zygote_died", extra={"runtime": name})
        del self._clients[name]
        self._restart(name)

    def _restart(self, name: str) -> asyncio.Task[None]:
        task = self._restarts[name] = asyncio.get_running_loop().create_task(self._open_client(name))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # `prewarm` raises it
        return task

    async def prewarm(self, runtime: str, spec: SandboxSpec | None = None) -> Sandbox:
        """Start an empty sandbox, whose function need not be known yet.

        Raises:
            RuntimeUnavailable: this worker does not have that runtime.
            IsolationMissing: the spec has hosts to reach, and this level has no network namespace.
            SandboxUnavailable: an isolation layer could not be applied; nothing was started.
        """
        if runtime not in self._commands:
            raise RuntimeUnavailable(
                f"this worker has no runtime {runtime!r}; it has: {', '.join(sorted(self.runtimes)) or 'none'}"
            )
        if spec is not None and spec.network and self.level != "strict":
            # Without a network namespace the function shares the worker's network, so it could pass
            # the proxy by.
            raise IsolationMissing(
                "functions with network need strict sandboxes, and this worker has restricted ones: see `strict` in docs/sandbox.md"
            )
        if runtime not in self._clients:
            restart = self._restarts[runtime]
            # A restart that failed is tried again by the next call.
            await asyncio.shield(self._restart(runtime) if restart.done() else restart)
        return await self._clients[runtime].spawn(spec or SandboxSpec())

    def zygote_client(self, runtime: str) -> ZygoteClient:
        """Return the client of the runtime's zygote, for self-tests."""
        return self._clients[runtime]

    def zygote_pids(self) -> dict[str, int]:
        """Return the zygotes' pids by runtime."""
        return {name: client.pid for name, client in self._clients.items()}

    async def close(self) -> None:
        """Kill every sandbox, end the zygotes, remove the folders."""
        self._closing = True
        for restart in self._restarts.values():
            restart.cancel()
            with contextlib.suppress(asyncio.CancelledError, SandboxUnavailable):
                await restart
        await asyncio.gather(*(client.close() for client in self._clients.values()))
        for lock in self._locks.values():
            lock.close()
        self._locks.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def _make_folder(state_dir: Path) -> Path:
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        ownership.remove_stale_folders(str(state_dir), PREFIX)
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{ownership.tag()}-", dir=state_dir.resolve()))
        folder.chmod(0o755)
    except OSError as error:
        raise SandboxUnavailable(
            f"cannot make a folder in {state_dir}: {error.strerror}. Give the worker a data folder it can write to."
        ) from error
    return folder


async def _open_client_or_explain(client: ZygoteClient) -> None:
    """Start a zygote.

    Raises:
        SandboxUnavailable: this level cannot be built here; with the remedy.
    """
    try:
        await client.open()
    except SandboxUnavailable as error:
        raise SandboxUnavailable(f"{error.message}: {remedy_for(client.level, error.message)}") from error
