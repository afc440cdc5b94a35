"""Server-sent events of a job: its status, its log output and its end.

No state is kept for a stream. An event's id is the reader's position (the status it knows, the
attempt, the bytes of that attempt's output that it has read); everything else is read from Redis.
So any API process can continue a stream, a slow reader blocks nothing, and a reader of an unchanged
job sends Redis nothing: changes arrive by Pub/Sub (sandlot/jobs/notifications.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Literal

import msgspec
from starlette.responses import Response, StreamingResponse

from api.documents import job_document
from api.invocations import Invocations
from sandlot.errors import CallerError, QueueUnavailable, UnsafeRecord
from sandlot.jobs import Follower, JobRecord, Queue
from sandlot.models import JobStatus

PING_S: Final = 15.0
"""Well below the time after which proxies close a silent connection (nginx: 60 s)."""
RETRY_S: Final = 1.0
"""Pause before a failed read is repeated."""
PING: Final = b": ping\n\n"
OVER: Final = "over"
HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}

_KNOWN: Final = frozenset({"", OVER, *(str(status) for status in JobStatus)})

_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
"""An attempt, or an offset into a log, which has at most 4 MiB."""

Kind = Literal["events", "logs"]
"""All events, or only the log output."""

ReadResult = Callable[[Queue, JobRecord], Awaitable[bytes | None]]


class StreamPosition(msgspec.Struct):
    """The position of a reader. Its text, such as `running.2.512`, is the id of each event."""

    status: str = ""
    attempt: int = 0
    read_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.status}.{self.attempt}.{self.read_bytes}"


def read_position(last_event_id: str) -> StreamPosition | None:
    """Return the position to continue from; None if the stream had ended there.

    Raises:
        CallerError: the id is not one of this stream's.
    """
    if not last_event_id:
        return StreamPosition()
    status, _, rest = last_event_id.partition(".")
    attempt, _, read_bytes = rest.partition(".")
    known = status in _KNOWN
    if not (known and _NUMBER.fullmatch(attempt) and _NUMBER.fullmatch(read_bytes)):
        raise CallerError(
            f"Last-Event-ID {last_event_id[:64]!r} is not an id of this stream; leave it out to start at the beginning"
        )
    return None if status == OVER else StreamPosition(status, int(attempt), int(read_bytes))


def stream_events(
    queue: Queue, invocations: Invocations, record: JobRecord, kind: Kind, last_event_id: str, read_result: ReadResult
) -> Response:
    """Return a stream of a job's events.

    Args:
        read_result: returns the result that the last event repeats; None for none.

    Raises:
        CallerError: the id is not one of this stream's.
    """
    position = read_position(last_event_id)
    if position is None:
        return Response(status_code=204)  # makes an EventSource stop reconnecting
    return StreamingResponse(
        _events(queue, invocations, record.id, kind, position, read_result),
        media_type="text/event-stream",
        headers=HEADERS,
    )


async def _events(
    queue: Queue, invocations: Invocations, job_id: str, kind: Kind, position: StreamPosition, read_result: ReadResult
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    sent_s = loop.time()
    yield b"retry: 1000\n\n"
    with queue.follow(job_id) as follower, invocations.wake_on_stop(follower.changed):
        while not invocations.stopping:
            follower.changed.clear()
            try:
                async for event in _new_events(queue, job_id, follower, kind, position, read_result):
                    sent_s = loop.time()
                    yield event
            except UnsafeRecord:
                return  # GET /v1/jobs/{job_id} reports what is wrong with the record
            except QueueUnavailable:
                loop.call_later(RETRY_S, follower.changed.set)  # from the same position
            if position.status == OVER:
                return
            while not await _wait_until(follower.changed, sent_s + PING_S):
                sent_s = loop.time()
                yield PING


async def _wait_until(event: asyncio.Event, until_s: float) -> bool:
    """Wait for the event, at most until this time of the loop's clock; return whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until_s):
            await event.wait()
    return event.is_set()


async def _new_events(
    queue: Queue, job_id: str, follower: Follower, kind: Kind, position: StreamPosition, read_result: ReadResult
) -> AsyncIterator[bytes]:
    """Yield the events after `position` and advance it.

    Raises:
        QueueUnavailable, UnsafeRecord: the job cannot be read.
    """
    if not follower.polled:
        return
    snapshot = follower.snapshot
    if snapshot is None:
        position.status = OVER
        yield _event("gone", position, b"{}")
        return
    if snapshot.attempt != position.attempt:
        position.attempt, position.read_bytes = snapshot.attempt, 0
    if snapshot.status.final:
        async for event in _last_events(queue, job_id, kind, position, read_result):
            yield event
        return
    if kind == "events" and position.status != snapshot.status and (record := await queue.job(job_id)) is not None:
        position.status = snapshot.status
        yield _event("status", position, msgspec.json.encode(job_document(record, None)))
    if snapshot.attempt:
        text = await queue.read_logs(job_id, snapshot.attempt, position.read_bytes)
        if text:
            position.read_bytes += len(text)
            yield _event("log", position, _log(text))


async def _last_events(
    queue: Queue, job_id: str, kind: Kind, position: StreamPosition, read_result: ReadResult
) -> AsyncIterator[bytes]:
    text = await queue.read_logs(job_id, None, position.read_bytes)
    if text:
        position.read_bytes += len(text)
        yield _event("log", position, _log(text))
    record = await queue.job(job_id)
    if record is None or kind == "logs":
        position.status = OVER
        yield _event("end", position, b"{}")
        return
    result = await read_result(queue, record)
    if position.status != record.status:
        position.status = record.status
        yield _event("status", position, msgspec.json.encode(job_document(record, None)))
    position.status = OVER
    yield _event("result", position, msgspec.json.encode(job_document(record, result)))


def _log(text: bytes) -> bytes:
    return msgspec.json.encode({"text": text.decode("utf-8", "replace")})


def _event(name: str, position: StreamPosition, data: bytes) -> bytes:
    """Return one event in the text/event-stream format.

    `data` is JSON. Line breaks that a function wrote between its tokens start new `data` lines.
    """
    lines = data.replace(b"\r", b" ").replace(b"\n", b"\ndata: ")
    return b"event: %b\nid: %b\ndata: %b\n\n" % (name.encode(), str(position).encode(), lines)
