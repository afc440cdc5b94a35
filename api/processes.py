"""Several API processes behind one listening socket.

Knows: how they are started, replaced when one dies, and stopped together. Does not know: what they serve.
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
from typing import Final

from sandlot.errors import OperatorError
from sandlot.settings import Settings

_log = logging.getLogger("sandlot.api")

_PAUSE_S: Final = 1.0
"""Before a process that died is replaced, so that one that cannot live does not take the machine with it."""
_KILL_AFTER_S: Final = 5.0
"""Beyond the grace that a process gives its callers."""
CANNOT_START: Final = 2


class Processes:
    """Runs `count` processes until a signal says stop, or until one of them says that it cannot start."""

    def __init__(self, settings: Settings, listening: socket.socket) -> None:
        self._count = settings.api_processes
        self._stop_deadline_s = settings.shutdown_grace_s + _KILL_AFTER_S
        self._listening = listening
        self._stopping = asyncio.Event()
        self._cannot_start = False
        self._peers = ""

    async def run(self) -> None:
        """
        Raises:
            OperatorError: a process could not start; it has said why.
        """
        loop = asyncio.get_running_loop()
        for stop in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(stop, self._stopping.set)
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

    async def _keep(self, alive_fd: int, number: int) -> None:
        """One process after another, under the same number."""
        while not self._stopping.is_set():
            process = await self._start(alive_fd, number)
            ended = asyncio.ensure_future(process.wait())
            stopping = asyncio.ensure_future(self._stopping.wait())
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not ended.done():
                await self._stop(process, ended)
                return
            if process.returncode == CANNOT_START:
                self._cannot_start = True
                self._stopping.set()
                return
            _log.error("process died", extra={"pid": process.pid, "status": process.returncode})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _PAUSE_S)

    async def _start(self, alive_fd: int, number: int) -> asyncio.subprocess.Process:
        listen_fd = self._listening.fileno()
        flags = ["-P"] if sys.flags.safe_path else []  # the folder we were started in is not to be imported from
        return await asyncio.create_subprocess_exec(
            sys.executable, *flags, "-m", "api", "--listen-fd", str(listen_fd), "--alive-fd", str(alive_fd),
            "--peers", self._peers, "--number", str(number),
            pass_fds=(listen_fd, alive_fd),
            start_new_session=True,  # Ctrl+C is for us; they are told by us, once
        )  # fmt: skip

    async def _stop(self, process: asyncio.subprocess.Process, ended: asyncio.Future[int]) -> None:
        process.terminate()
        done, _ = await asyncio.wait({ended}, timeout=self._stop_deadline_s)
        if not done:
            process.kill()
            await ended
