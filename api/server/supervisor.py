"""A supervisor of several API processes that share one listening socket.

It starts them, replaces one that dies, renews them one after another (SIGHUP) and stops them
together. The socket is bound once; with SO_REUSEPORT, a port on which another program listens would
look free.
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
"""Before a process that died is replaced, so that a crash loop does not load the machine."""
_KILL_AFTER_S: Final = 5.0
"""After the grace period that a process gives its callers."""
_START_DEADLINE_S: Final = 60.0
"""For a successor to serve; after that it is stopped and the process it should replace stays."""
CANNOT_START: Final = 2
"""Exit status of a process that cannot start and has printed why."""


class Supervisor:
    """Runs API processes until a signal, or until one of them exits because it cannot start."""

    def __init__(self, settings: Settings, listening: socket.socket, installed: Path | None = None) -> None:
        """
        Args:
            installed: the path by which `sandlot` was started; a link there may lead to another
                version at a renewal. None to renew with the running code.
        """
        self._count = settings.api_processes
        self._stop_deadline_s = settings.shutdown_grace_s + _KILL_AFTER_S
        self._listening = listening
        self._stopping = asyncio.Event()
        self._renewals = [asyncio.Event() for _ in range(self._count)]
        self._renewing = asyncio.Lock()
        self._cannot_start = False
        self._siblings_folder = ""
        flags = (
            ["-P"] if sys.flags.safe_path else []
        )  # keep the current folder off the import path, as for this process
        self._own_command = (sys.executable, *flags, "-m", "api")
        self._installed = (str(installed), "api", "--") if installed is not None else self._own_command
        self._commands = [self._own_command] * self._count
        """
        The command that last started each number. A process that dies is replaced by the same
        version, not by one that was installed in the meantime.
        """

    async def run(self) -> None:
        """Run the processes until they have all stopped.

        Raises:
            OperatorError: a process could not start; it has printed why.
        """
        loop = asyncio.get_running_loop()
        for stop in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(stop, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._renew_all)
        # The pipe ends however this process ends, and its readers stop: no child outlives it.
        read_end, write_end = os.pipe()
        try:
            # The siblings find each other here for a scrape. Only this user may enter (mode 0700).
            with tempfile.TemporaryDirectory(prefix="sandlot-api-") as self._siblings_folder:
                async with asyncio.TaskGroup() as group:
                    for number in range(self._count):
                        group.create_task(self._keep_running(read_end, number))
        finally:
            os.close(read_end)
            os.close(write_end)
        if self._cannot_start:
            raise OperatorError("an API process could not start; its own line says why")

    def _renew_all(self) -> None:
        _log.info("renewing", extra={"processes": self._count})
        for renewal in self._renewals:
            renewal.set()

    async def _keep_running(self, alive_fd: int, number: int) -> None:
        """Run one process after another under the same number."""
        process = await self._start(self._commands[number], alive_fd, number)
        while True:
            await self._wait_for_event(process, self._renewals[number])
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

    async def _wait_for_event(self, process: asyncio.subprocess.Process, renewal: asyncio.Event) -> None:
        """Wait until the process has ended, has to be renewed, or everything has to stop."""
        waits = [asyncio.ensure_future(wait) for wait in (process.wait(), renewal.wait(), self._stopping.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        # The caller reads off which it was. Await the cancelled waits, so that a process that has
        # just ended has its status.
        await asyncio.gather(*waits, return_exceptions=True)

    async def _renew(
        self, process: asyncio.subprocess.Process, alive_fd: int, number: int
    ) -> asyncio.subprocess.Process:
        """Return a successor that serves before `process` is stopped; `process` if none starts.

        Only one process at a time is renewed.
        """
        async with self._renewing:
            ready_end, write_end = os.pipe()
            try:
                successor = await self._start(self._installed, alive_fd, number, write_end)
            finally:
                os.close(write_end)
            if not await _becomes_ready(ready_end):
                _log.error("process not renewed", extra={"pid": process.pid, "successor": successor.pid})
                await self._stop(successor)
                return process
            self._commands[number] = self._installed
            await self._stop(process)
            return successor

    async def _start(
        self, command: Sequence[str], alive_fd: int, number: int, ready_fd: int | None = None
    ) -> asyncio.subprocess.Process:
        """Start a process.

        Args:
            ready_fd: the write end of a pipe to which it writes a byte when it serves.
        """
        listen_fd = self._listening.fileno()
        ready = [] if ready_fd is None else ["--ready-fd", str(ready_fd)]
        return await asyncio.create_subprocess_exec(
            *command, "--listen-fd", str(listen_fd), "--alive-fd", str(alive_fd),
            "--peers", self._siblings_folder, "--number", str(number), *ready,
            pass_fds=[fd for fd in (listen_fd, alive_fd, ready_fd) if fd is not None],
            start_new_session=True,  # Ctrl+C reaches only the supervisor, which signals each once
        )  # fmt: skip

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._stop_deadline_s)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _becomes_ready(ready_fd: int) -> bool:
    """Return whether a byte arrives before the other end closes or the deadline passes.

    The other end closes at the latest when its process ends. Closes `ready_fd`.
    """
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
