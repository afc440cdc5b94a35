"""Large results between the end of their run and the queue for the next step: encoded in a thread.

Knows: which records are being encoded. Does not know: steps, Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sandlot.aside import ASIDE_BYTES
from sandlot.jobs.settlement import encode_result
from worker.engine.records import Finished


class Encoding:
    """One per engine. `on_encoded` gets each record back, from the loop."""

    def __init__(self, on_encoded: Callable[[Finished], None]) -> None:
        self._on_encoded = on_encoded
        self._tasks: dict[asyncio.Task[None], Finished] = {}

    @property
    def records(self) -> list[Finished]:
        """Their leases are still needed."""
        return list(self._tasks.values())

    def take(self, record: Finished) -> bool:
        """False if it is not large: nothing is done."""
        if len(record.outcome.result) <= ASIDE_BYTES:
            return False
        task = asyncio.get_running_loop().create_task(self._encode(record))
        self._tasks[task] = record
        return True

    async def _encode(self, record: Finished) -> None:
        record.encoded = await asyncio.to_thread(encode_result, record.outcome.result)
        task = asyncio.current_task()
        if task is not None:
            del self._tasks[task]
        self._on_encoded(record)
