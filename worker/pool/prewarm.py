"""Keep a few sandboxes started before anyone needs them.

Knows: runtimes and how many to keep ready. Does not know: functions.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from typing import Final

from sandlot.errors import SandlotError
from worker.sandbox.host import SandboxHost
from worker.sandbox.sandbox import Sandbox
from worker.sandbox.spec import SandboxSpec

_log: Final = logging.getLogger(__name__)

_BLANK: Final = SandboxSpec()

_REFILL_AFTER_S: Final = 0.02
"""The zygote does one thing at a time: a refill at once would stand before the attachment of the blank that was taken (4 instead of 0.5 ms)."""


class PrewarmedPool:
    """Blank sandboxes by runtime; a taken one is replaced in the background, a moment later."""

    def __init__(self, host: SandboxHost, ready: int) -> None:
        self._host = host
        self._ready = ready
        self._shelves: dict[str, deque[Sandbox]] = {runtime: deque() for runtime in host.runtimes}
        self._refills: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    def open(self) -> None:
        """Start filling; nobody waits for the last blank."""
        for runtime in self._shelves:
            self._refill(runtime)

    async def take(self, runtime: str, policy: SandboxSpec) -> Sandbox:
        """A live sandbox that `attach` can give this policy to.

        Raises:
            SandlotError: none can be started.
        """
        if not policy.network:  # The network is the one limit that cannot be changed after the start.
            shelf = self._shelves.get(runtime)
            while shelf:
                sandbox = shelf.popleft()
                self._refill_soon(runtime)
                if _alive(sandbox):
                    return sandbox
                await kill_and_wait(sandbox)
        return await self._host.prewarm(runtime, policy)

    async def close(self) -> None:
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        refills = list(self._refills.values())
        for task in refills:
            task.cancel()
        await asyncio.gather(*refills, return_exceptions=True)
        await asyncio.gather(*(kill_and_wait(sandbox) for shelf in self._shelves.values() for sandbox in shelf))
        self._shelves.clear()

    def _refill_soon(self, runtime: str) -> None:
        if runtime not in self._timers:
            self._timers[runtime] = asyncio.get_running_loop().call_later(_REFILL_AFTER_S, self._refill, runtime)

    def _refill(self, runtime: str) -> None:
        self._timers.pop(runtime, None)
        if not self._closed and runtime not in self._refills:
            task = asyncio.get_running_loop().create_task(self._fill(runtime), name=f"blanks {runtime}")
            self._refills[runtime] = task
            task.add_done_callback(lambda _task: self._refills.pop(runtime, None))

    async def _fill(self, runtime: str) -> None:
        shelf = self._shelves[runtime]
        while len(shelf) < self._ready:
            try:
                shelf.append(await self._host.prewarm(runtime, _BLANK))
            except SandlotError as error:
                # Not fatal here: whoever needs one next starts it, and is told what is wrong.
                _log.warning("blank_failed", extra={"runtime": runtime, "error": error.message})
                return


async def kill_and_wait(sandbox: Sandbox) -> None:
    """Kill, wait until everything in it is dead, close its descriptors."""
    sandbox.kill()
    await sandbox.ended()
    sandbox.close()


def _alive(sandbox: Sandbox) -> bool:
    try:
        return sandbox.control.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
