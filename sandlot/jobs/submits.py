"""Submits of one loop tick leave in one script call.

Knows: the arguments of submit.lua, how many go together, whose answer is whose. Does not know: what an answer means, repeating.
Measured with 16 together: a third of the server's time per submit goes, since the script's start, its clock and its looks at queues and
workers are shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, cast

from sandlot.jobs.breakers import Breakers
from sandlot.jobs.link import Link
from sandlot.jobs.lua import script
from sandlot.jobs.wire import Argument, Reply

BATCH_LIMIT: Final = 64
BATCH_LIMIT_BYTES: Final = 256 * 1024
"""Of the jobs' data: Redis does nothing else meanwhile, and small jobs do not wait for a large one to be sent."""

_DATA: Final = 4
"""Which of a job's arguments is the event."""


class Submits:
    """One per link."""

    def __init__(self, link: Link, breakers: Breakers, queue_limit_per_function: int, queue_limit: int) -> None:
        self._breakers = breakers
        self._link = link
        self._limits = (queue_limit_per_function, queue_limit)
        self._script = script("submit")
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Sequence[Argument], asyncio.Future[Reply]]] = []

    def send(self, arguments: Sequence[Argument]) -> asyncio.Future[Reply]:
        """One job's answer. The future fails as one of `Link.run` does; those sent together then fail together."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append((arguments, future))
        return future

    def send_whole(self, arguments: Sequence[Argument], idempotency: str, fingerprint: str) -> asyncio.Future[Reply]:
        """Jobs of one queue that are taken all together or not at all: one answer for each, or one refusal for all."""
        return self._link.run(
            self._script, *self._limits, self._breakers.suspects, 1, idempotency, fingerprint, *arguments
        )

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        batch: list[Argument] = []
        futures: list[asyncio.Future[Reply]] = []
        size_bytes = 0
        for arguments, future in waiting:
            data_bytes = len(cast(bytes, arguments[_DATA]))
            if futures and (len(futures) == BATCH_LIMIT or size_bytes + data_bytes > BATCH_LIMIT_BYTES):
                self._run(batch, futures)
                batch, futures, size_bytes = [], [], 0
            batch.extend(arguments)
            futures.append(future)
            size_bytes += data_bytes
        self._run(batch, futures)

    def _run(self, batch: list[Argument], futures: list[asyncio.Future[Reply]]) -> None:
        self._link.run_now(self._script, *self._limits, self._breakers.suspects, 0, "", "", *batch).add_done_callback(
            lambda reply: _tell(reply, futures)
        )


def _tell(reply: asyncio.Future[Reply], futures: list[asyncio.Future[Reply]]) -> None:
    """Whoever has stopped waiting is passed over: his job is submitted all the same."""
    error = None if reply.cancelled() else reply.exception()
    answers: Sequence[Reply] = () if reply.cancelled() or error else cast("list[Reply]", reply.result())
    for index, future in enumerate(futures):
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        elif reply.cancelled():
            future.cancel()
        else:
            future.set_result(answers[index])
