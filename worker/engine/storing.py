"""Large results between the end of their run and the queue for the next step: encoded in a thread, or stored piece by piece.

Knows: which records are on that way, what is repeated when Redis is away. Does not know: steps, how a result is cut.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sandlot.errors import QueueUnavailable
from sandlot.jobs.large_results import STORED_FROM_BYTES, cut
from sandlot.jobs.settlement import encode_result, encode_stored
from sandlot.jobs.worker_queue import WorkerQueue
from sandlot.offload import OFFLOAD_BYTES
from sandlot.redis.pipeline import BACKOFFS_S
from worker.engine.records import Finished

log = logging.getLogger(__name__)

AT_ONCE: Final = 4
"""Pieces on their way together: a mebibyte, so that a Redis some milliseconds away is not waited for each time. Only these are copied."""


class Storing:
    """One per engine. From the loop, `on_stored` gets each record back, or `on_lost` does: its attempt is another's now."""

    def __init__(
        self, queue: WorkerQueue, on_stored: Callable[[Finished], None], on_lost: Callable[[Finished], None]
    ) -> None:
        self._queue = queue
        self._on_stored = on_stored
        self._on_lost = on_lost
        self._tasks: dict[asyncio.Task[None], Finished] = {}

    @property
    def records(self) -> list[Finished]:
        """Their leases are still needed."""
        return list(self._tasks.values())

    def take(self, record: Finished) -> bool:
        """False if it is not large: nothing is done."""
        if len(record.outcome.result) <= OFFLOAD_BYTES:
            return False
        task = asyncio.get_running_loop().create_task(self._prepare(record), name="store")
        self._tasks[task] = record
        return True

    async def _prepare(self, record: Finished) -> None:
        result = record.outcome.result
        encode = encode_result if len(result) <= STORED_FROM_BYTES else encode_stored
        encoded = record.encoded if record.encoded is not None else await asyncio.to_thread(encode, result)
        kept = not encoded.digests or await self._store(record, result)
        record.encoded = encoded
        task = asyncio.current_task()
        if task is not None:
            del self._tasks[task]
        (self._on_stored if kept else self._on_lost)(record)

    async def _store(self, record: Finished, result: bytes) -> bool:
        pieces = list(cut(result))
        for first in range(0, len(pieces), AT_ONCE):
            some = enumerate(pieces[first : first + AT_ONCE], first)
            if not all(
                await asyncio.gather(*(self._store_piece(record, number, bytes(piece)) for number, piece in some))
            ):
                return False
        return True

    async def _store_piece(self, record: Finished, number: int, piece: bytes) -> bool:
        """Repeated until it is answered: what has run is not run again because Redis is away."""
        failures = 0
        while True:
            try:
                return await self._queue.store(record.claim, number, piece)
            except QueueUnavailable as error:
                if failures == 0:
                    log.warning("storing is repeated", extra={"job_id": record.claim.job_id, "error": error.message})
                await asyncio.sleep(BACKOFFS_S[min(failures, len(BACKOFFS_S) - 1)])
                failures += 1
