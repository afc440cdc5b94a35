"""Prewarmed sandboxes: started before a version needs them."""

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

_DEFAULT_SPEC: Final = SandboxSpec()

_REFILL_DELAY_S: Final = 0.02
"""The zygote does one thing at a time. A refill at once would delay the attachment of the sandbox
that was just taken (4 instead of 0.5 ms)."""


class PrewarmedPool:
    """Prewarmed sandboxes by runtime. Each one taken is replaced soon, in the background."""

    def __init__(self, host: SandboxHost, per_runtime: int) -> None:
        self._host = host
        self._per_runtime = per_runtime
        self._ready: dict[str, deque[Sandbox]] = {runtime: deque() for runtime in host.runtimes}
        self._refills: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    def open(self) -> None:
        """Start filling in the background."""
        for runtime in self._ready:
            self._refill(runtime)

    async def take(self, runtime: str, spec: SandboxSpec) -> Sandbox:
        """Return a live sandbox that can be attached with this spec.

        Raises:
            SandlotError: no sandbox can be started.
        """
        if not spec.network:  # The network is the one limit that cannot be changed after the start.
            ready = self._ready.get(runtime)
            while ready:
                sandbox = ready.popleft()
                self._refill_soon(runtime)
                if _is_alive(sandbox):
                    return sandbox
                await kill_and_wait(sandbox)
        return await self._host.prewarm(runtime, spec)

    async def close(self) -> None:
        """Stop filling, and kill every prewarmed sandbox."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        refills = list(self._refills.values())
        for task in refills:
            task.cancel()
        await asyncio.gather(*refills, return_exceptions=True)
        await asyncio.gather(*(kill_and_wait(sandbox) for ready in self._ready.values() for sandbox in ready))
        self._ready.clear()

    def _refill_soon(self, runtime: str) -> None:
        if runtime not in self._timers:
            self._timers[runtime] = asyncio.get_running_loop().call_later(_REFILL_DELAY_S, self._refill, runtime)

    def _refill(self, runtime: str) -> None:
        self._timers.pop(runtime, None)
        if not self._closed and runtime not in self._refills:
            task = asyncio.get_running_loop().create_task(self._fill(runtime), name=f"prewarm {runtime}")
            self._refills[runtime] = task
            task.add_done_callback(lambda _task: self._refills.pop(runtime, None))

    async def _fill(self, runtime: str) -> None:
        ready = self._ready[runtime]
        while len(ready) < self._per_runtime:
            try:
                ready.append(await self._host.prewarm(runtime, _DEFAULT_SPEC))
            except SandlotError as error:
                # Not fatal: the next run that needs a sandbox starts it, and fails with the reason.
                _log.warning("prewarm_failed", extra={"runtime": runtime, "error": error.message})
                return


async def kill_and_wait(sandbox: Sandbox) -> None:
    """Kill a sandbox, wait until every process in it is dead, and close its descriptors."""
    sandbox.kill()
    await sandbox.ended()
    sandbox.close()


def _is_alive(sandbox: Sandbox) -> bool:
    try:
        return sandbox.control.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
