"""Those who read streams of events, in this process: the real streams, without a socket."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from starlette.responses import StreamingResponse

from api.invocations import Invocations
from api.routes import events
from sandlot.jobs import JobRecord, Queue
from sandlot.redis.durability import DurabilityWatch
from sandlot.settings import Settings


class Reader:
    """One who reads a stream of events, in a task of his own."""

    def __init__(self, response: Any) -> None:
        assert isinstance(response, StreamingResponse)
        self.pings = 0
        self.events: list[str] = []
        self._task = asyncio.create_task(self._read(response.body_iterator))

    async def _read(self, pieces: Any) -> None:
        async for piece in pieces:
            if piece == events.PING:
                self.pings += 1
            elif piece.startswith(b"event: "):
                self.events.append(piece[7:].partition(b"\n")[0].decode())

    @property
    def over(self) -> bool:
        return self._task.done()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if not self._task.cancelled():
            self._task.result()


class Readers:
    """Readers at one queue, all closed at the end."""

    def __init__(self, queue: Queue, url: str) -> None:
        self._queue = queue
        self._url = url
        self._readers: list[Reader] = []

    async def __aenter__(self) -> Self:
        self._watch = await DurabilityWatch.open(self._url)
        self.calls = Invocations(self._queue, Settings(_env_file=None), self._watch)
        return self

    async def read(self, job_id: str) -> Reader:
        record = await self._queue.job(job_id)
        assert record is not None
        reader = Reader(events.stream_events(self._queue, self.calls, record, "events", "", _nothing))
        self._readers.append(reader)
        return reader

    async def __aexit__(self, *_: object) -> None:
        for reader in self._readers:
            await reader.close()
        await self._watch.close()


async def _nothing(_queue: Queue, _record: JobRecord) -> None:
    return None
