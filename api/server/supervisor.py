"""Several API processes behind one listening socket.

Knows: how they are started, replaced when one dies, renewed one after the other (SIGHUP), and stopped together. Does not know: what they serve.
They share one socket that is bound once, not one each with SO_REUSEPORT: with that, a port that somebody else listens on looks free.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sandlot.errors import OperatorError
from sandlot.settings import Settings

_log = logging.getLogger("sandlot.api")

_PAUSE_S: Final = 1.0
"""Before a process that died is replaced, so that one that cannot live does not take the machine with it."""
_KILL_AFTER_S: Final = 5.0
"""Beyond the grace that a process gives its callers."""
_START_DEADLINE_S: Final = 60.0
"""A process that does not serve by then is not going to; the one it was to replace stays."""
CANNOT_START: Final = 2


class Processes:
    """Runs `count` processes until a signal says stop, or until one of them says that it cannot start."""

    def __init__(self, settings: Settings, listening: socket.socket, installed: Path | None = None) -> None:
        """`installed`: the `sandlot` that was started, by the path it was called by. A link there may mean another version at a renewal."""
        self._count = settings.api_processes
        self._stop_deadline_s = settings.shutdown_grace_s + _KILL_AFTER_S
        self._listening = listening
        self._stopping = asyncio.Event()
        self._renewals = [asyncio.Event() for _ in range(self._count)]
        self._renewing = asyncio.Lock()
        self._cannot_start = False
        self._peers = ""
        flags = ["-P"] if sys.flags.safe_path else []  # the folder we were started in is not to be imported from
        self._ours = (sys.executable, *flags, "-m", "api")
        self._installed = (str(installed), "api", "--") if installed is not None else self._ours
        self._commands = [self._ours] * self._count
        """What each number was last started by: one that dies is replaced by its like, not by what was installed meanwhile."""

    async def run(self) -> None:
        """
        Raises:
            OperatorError: a process could not start; it has said why.
        """
        loop = asyncio.get_running_loop()
        for stop in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(stop, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._renew_all)
        # Whoever reads from the pipe sees its end when we are gone, however we went: no process outlives us.
        read_end, write_end = os.pipe()
        try:
            # Where they find each other for a scrape; nobody else may look in.
            with tempfile.TemporaryDirectory(prefix="sandlot-api-") as self._peers:
                async with asyncio.TaskGroup() as group:
                    for number in range(self._count):
                        group.create_task(self._keep(read_end, number))
        finally:
            os.close(read_end)
            os.close(write_end)
        if self._cannot_start:
            raise OperatorError("an API process could not start; its own line says why")

    def _renew_all(self) -> None:
        _log.info("renewing", extra={"processes": self._count})
        for renewal in self._renewals:
            renewal.set()

    async def _keep(self, alive_fd: int, number: int) -> None:
        """One process after another, under the same number."""
        process = await self._start(self._commands[number], alive_fd, number)
        while True:
            await self._happens(process, self._renewals[number])
            if process.returncode is None:
                if self._stopping.is_set():
                    await self._stop(process)
                    return
                self._renewals[number].clear()
                process = await self._renew(process, alive_fd, number)
                continue
            if process.returncode == CANNOT_START:
                self._cannot_start = True
                self._stopping.set()
                return
            _log.error("process died", extra={"pid": process.pid, "status": process.returncode})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _PAUSE_S)
            if self._stopping.is_set():
                return
            process = await self._start(self._commands[number], alive_fd, number)

    async def _happens(self, process: asyncio.subprocess.Process, renewal: asyncio.Event) -> None:
        """Until it has ended, is to be renewed, or everything is to stop."""
        waits = [asyncio.ensure_future(wait) for wait in (process.wait(), renewal.wait(), self._stopping.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        # Which of them it was can be read off; a process that ends while it is asked has no status yet.
        await asyncio.gather(*waits, return_exceptions=True)

    async def _renew(
        self, process: asyncio.subprocess.Process, alive_fd: int, number: int
    ) -> asyncio.subprocess.Process:
        """Its successor, which serves before this one stops; this one, if there can be none. One process at a time."""
        async with self._renewing:
            ready_end, write_end = os.pipe()
            try:
                successor = await self._start(self._installed, alive_fd, number, write_end)
            finally:
                os.close(write_end)
            if not await _says_ready(ready_end):
                _log.error("process not renewed", extra={"pid": process.pid, "successor": successor.pid})
                await self._stop(successor)
                return process
            self._commands[number] = self._installed
            await self._stop(process)
            return successor

    async def _start(
        self, command: Sequence[str], alive_fd: int, number: int, ready_fd: int | None = None
    ) -> asyncio.subprocess.Process:
        """`ready_fd`: the write end of a pipe on which it says that it serves."""
        listen_fd = self._listening.fileno()
        ready = [] if ready_fd is None else ["--ready-fd", str(ready_fd)]
        return await asyncio.create_subprocess_exec(
            *command, "--listen-fd", str(listen_fd), "--alive-fd", str(alive_fd),
            "--peers", self._peers, "--number", str(number), *ready,
            pass_fds=[fd for fd in (listen_fd, alive_fd, ready_fd) if fd is not None],
            start_new_session=True,  # Ctrl+C is for us; they are told by us, once
        )  # fmt: skip

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._stop_deadline_s)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _says_ready(ready_fd: int) -> bool:
    """False if whoever has the other end closes it without a word, which it does at the latest when it ends. `ready_fd` is closed."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ready_fd, "rb", 0)
    )
    try:
        async with asyncio.timeout(_START_DEADLINE_S):
            return bool(await reader.read(1))
    except TimeoutError:
        return False
    finally:
        transport.close()
