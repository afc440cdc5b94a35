"""Hundreds of workers without sandboxes: the real engine on a pool that only waits.

Each is forked from a process that has imported everything. A whole worker spends two seconds of
processor time on its selftest before it begins, which a test of SIGTERM does not need.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
from typing import Final

from sandlot.failpoints import Failpoints
from sandlot.jobs.worker_queue import WorkerQueue
from sandlot.log_format import configure_logging
from sandlot.models import Outcome, OutcomeKind
from sandlot.redis.connection import connect_blocking
from tests.chaos.parts import Part
from tests.chaos.rig import SIGNING_KEY, SLOTS, Rig
from tests.jobs.inline_pool import InlinePool
from worker.engine import Engine
from worker.engine.engine import worker_name
from worker.execution import Execution
from worker.metrics.counts import WorkerCounts
from worker.middleware import MiddlewarePool
from worker.middleware.failpoints import FailpointMiddleware

DRAIN_S: Final = 30.0
PR_SET_PDEATHSIG: Final = 1  # prctl(2)


class Forked:
    """A process of `multiprocessing`, as `subprocess.Popen` would show it."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # ended, and the fork server has not said so yet
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        self._process.join()
        return self._process.exitcode or 0


class Engines:
    """One per plan. Each worker it makes is a part of the rig like any other."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._made = 0

    async def start(self) -> Part:
        """Ready to work."""
        self._made += 1
        name = f"engine-{self._made}"
        log = self._rig.folder / f"{name}.log"
        log.touch()
        url = f"redis://127.0.0.1:{self._rig.redis_port}/0"
        process = self._context.Process(target=_work, args=(url, str(log)), name=name, daemon=True)
        process.start()  # milliseconds; in threads, two at a time read each other's exit statuses
        part = Part(name, Forked(process), log)
        self._rig.parts.append(part)
        self._rig.workers.append(part)
        await part.said("worker started", 60)
        return part


def _work(url: str, log: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    configure_logging("json", "info")
    asyncio.run(_serve(url))


async def _serve(url: str) -> None:
    loop = asyncio.get_running_loop()
    points = Failpoints.parse("started:note")
    assert points is not None

    def behave(execution: Execution) -> None:
        answer = json.dumps([execution.job_id, execution.attempt]).encode()
        ended = Outcome(kind=OutcomeKind.OK, result=answer)
        loop.call_later(json.loads(execution.event)["s"], pool.finish, execution.job_id, ended)

    pool = InlinePool(SLOTS, behave)
    queue = await WorkerQueue.open(url, SIGNING_KEY.encode(), worker_name(), ["python"])
    counts = WorkerCounts(functions_limit=1)
    executor = MiddlewarePool(pool, [FailpointMiddleware(points)])
    await Engine(connect_blocking(url), queue, executor, counts, drain_s=DRAIN_S).run()
    await queue.close()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))  # as `python -m worker` does
