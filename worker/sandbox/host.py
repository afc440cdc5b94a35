"""The machine's sandboxes: which level holds here, one zygote per runtime, and blanks on request.

Knows: levels, zygotes, what to do when one dies. Does not know: functions, jobs, how a wall is built.
"""

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

from sandlot.errors import RuntimeUnavailable, SandboxUnavailable
from worker.sandbox.policy import Level, Policy, RuntimeCommand
from worker.sandbox.sandbox import Sandbox
from worker.sandbox.uids import reserve_block
from worker.sandbox.zygote_link import ZygoteLink

log: Final = logging.getLogger(__name__)


class SandboxHost:
    """Open with `open`, which fails closed; close with `close`, which leaves nothing."""

    def __init__(
        self, level: Level, runtimes: Sequence[RuntimeCommand], folder: Path, missing: tuple[str, ...] = ()
    ) -> None:
        self.level = level
        self.runtimes = frozenset(runtime.name for runtime in runtimes)
        self._commands = {runtime.name: runtime for runtime in runtimes}
        self._folder = folder
        self._missing = missing
        self._links: dict[str, ZygoteLink] = {}
        self._locks: list[socket.socket] = []
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
        """Start the zygotes at the best level that holds.

        Args:
            level: `auto` is strict, else restricted with a warning, else nothing.
            state_dir: a folder of ours; mount points are made in it and removed again.
            missing: walls to leave out, for tests that check that the probes notice.

        Raises:
            SandboxUnavailable: no permitted level holds here; the message names the missing wall and the remedy.
        """
        host = cls("strict" if level == "auto" else level, runtimes, _make_folder(state_dir), missing)
        try:
            await host._start()
        except BaseException:
            await host.close()
            raise
        return host

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def _start(self) -> None:
        await asyncio.gather(*(self._open_link(name) for name in self._commands))

    async def _open_link(self, name: str) -> None:
        uid_base = 0
        if os.geteuid() == 0:
            uid_base, lock = reserve_block()
            self._locks.append(lock)
        folder = self._folder / name
        folder.mkdir(mode=0o755, exist_ok=True)
        link = ZygoteLink(self._commands[name], self.level, folder, uid_base, self._revive, self._missing)
        self._links[name] = link
        await link.open()

    def _revive(self, link: ZygoteLink) -> None:
        """A zygote died: its sandboxes with it, nobody else's. Another takes its place."""
        if self._closing:
            return
        name = link.runtime.name
        log.warning("zygote_died", extra={"runtime": name})
        self._restarts[name] = asyncio.get_running_loop().create_task(self._open_link(name))

    async def blank(self, runtime: str, policy: Policy | None = None) -> Sandbox:
        """A started, empty sandbox: its function is not known yet.

        Raises:
            RuntimeUnavailable: no such runtime here.
            SandboxUnavailable: a wall could not be put up; nothing was started.
        """
        if runtime not in self._links:
            raise RuntimeUnavailable(
                f"this worker has no runtime {runtime!r}; it has: {', '.join(sorted(self.runtimes)) or 'none'}"
            )
        if restart := self._restarts.get(runtime):
            await asyncio.shield(restart)
        return await self._links[runtime].spawn(policy or Policy())

    async def close(self) -> None:
        """Kill every sandbox, end the zygotes, remove the folders."""
        self._closing = True
        for restart in self._restarts.values():
            restart.cancel()
            with contextlib.suppress(asyncio.CancelledError, SandboxUnavailable):
                await restart
        await asyncio.gather(*(link.close() for link in self._links.values()))
        for lock in self._locks:
            lock.close()
        self._locks.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def _make_folder(state_dir: Path) -> Path:
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="sandboxes-", dir=state_dir.resolve()))
    except OSError as error:
        raise SandboxUnavailable(
            f"cannot make a folder in {state_dir}: {error.strerror}. Give the worker a data folder it can write to."
        ) from error
