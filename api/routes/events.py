"""Follow a job as it happens: server-sent events of its status, of what it prints, and of its end.

Knows: the events, their ids, when a stream is over. Does not know: who may follow a job, how a worker says what is printed.
Nothing is kept of a stream: an id says how far its reader is (the status it knows, the attempt, the bytes read of that attempt's output), and all the
rest is read from Redis. So any API process goes on where another stopped, a reader that is slow keeps nothing waiting, and one of whose job nothing
is new asks Redis nothing: how its job stands it is told (sandlot/jobs/notifications.py).
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
"""Proxies cut a connection on which nothing comes."""
AGAIN_S: Final = 1.0
"""Before what could not be read is read again."""
PING: Final = b": ping\n\n"
OVER: Final = "over"
HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}

_KNOWN: Final = frozenset({"", OVER, *(str(status) for status in JobStatus)})

_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
"""An attempt, or a byte of a log, of which there are 4 MiB at most."""

Kind = Literal["events", "logs"]
"""All of it, or only what is printed."""


ResultOf = Callable[[JobRecord], Awaitable[bytes | None]]


class StreamPosition(msgspec.Struct):
    """How far a reader is. Its text, `running.2.512`, is the id of each event."""

    status: str = ""
    attempt: int = 0
    read_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.status}.{self.attempt}.{self.read_bytes}"


def read_place(last_event_id: str) -> StreamPosition | None:
    """Where to go on; nothing if all was said.

    Raises:
        CallerError: it is no id of ours.
    """
    if not last_event_id:
        return StreamPosition()
    status, _, rest = last_event_id.partition(".")
    attempt, _, read_bytes = rest.partition(".")
    known = status in _KNOWN
    if not (known and _NUMBER.fullmatch(attempt) and _NUMBER.fullmatch(read_bytes)):
        raise CallerError(
            f"Last-Event-ID {last_event_id[:64]!r} is none of this stream's; leave it out to begin at the beginning"
        )
    return None if status == OVER else StreamPosition(status, int(attempt), int(read_bytes))


def follow(
    queue: Queue, calls: Invocations, record: JobRecord, kind: Kind, last_event_id: str, result_of: ResultOf
) -> Response:
    """A stream of what happens to a job; `result_of` gives the result that its last event repeats, if any.

    Raises:
        CallerError: the id is none of ours.
    """
    place = read_place(last_event_id)
    if place is None:
        return Response(status_code=204)  # an EventSource that is answered so does not ask again
    return StreamingResponse(
        _events(queue, calls, record.id, kind, place, result_of), media_type="text/event-stream", headers=HEADERS
    )


async def _events(
    queue: Queue, calls: Invocations, job_id: str, kind: Kind, place: StreamPosition, result_of: ResultOf
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    said_s = loop.time()
    yield b"retry: 1000\n\n"
    with queue.follow(job_id) as follower, calls.following(follower.changed):
        while not calls.stopping:
            follower.changed.clear()
            try:
                async for event in _news(queue, job_id, follower, kind, place, result_of):
                    said_s = loop.time()
                    yield event
            except UnsafeRecord:
                return  # asked for by itself, the job says what is wrong with it
            except QueueUnavailable:
                loop.call_later(AGAIN_S, follower.changed.set)  # from the same place
            if place.status == OVER:
                return
            while not await _set(follower.changed, said_s + PING_S):
                said_s = loop.time()
                yield PING


async def _set(event: asyncio.Event, until_s: float) -> bool:
    """Whether it is set, by that time of the loop at the latest."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until_s):
            await event.wait()
    return event.is_set()


async def _news(
    queue: Queue, job_id: str, follower: Follower, kind: Kind, place: StreamPosition, result_of: ResultOf
) -> AsyncIterator[bytes]:
    """What there is beyond `place`, which is moved along.

    Raises:
        QueueUnavailable, UnsafeRecord
    """
    if not follower.polled:
        return
    glance = follower.snapshot
    if glance is None:
        place.status = OVER
        yield _event("gone", place, b"{}")
        return
    if glance.attempt != place.attempt:
        place.attempt, place.read_bytes = glance.attempt, 0
    if glance.status.final:
        async for event in _last_words(queue, job_id, kind, place, result_of):
            yield event
        return
    if kind == "events" and place.status != glance.status and (record := await queue.job(job_id)) is not None:
        place.status = glance.status
        yield _event("status", place, msgspec.json.encode(job_document(record, None)))
    if glance.attempt:
        text = await queue.read_logs(job_id, glance.attempt, place.read_bytes)
        if text:
            place.read_bytes += len(text)
            yield _event("log", place, _log(text))


async def _last_words(
    queue: Queue, job_id: str, kind: Kind, place: StreamPosition, result_of: ResultOf
) -> AsyncIterator[bytes]:
    text = await queue.read_logs(job_id, None, place.read_bytes)
    if text:
        place.read_bytes += len(text)
        yield _event("log", place, _log(text))
    record = await queue.job(job_id)
    if record is None or kind == "logs":
        place.status = OVER
        yield _event("end", place, b"{}")
        return
    result = await result_of(record)
    if place.status != record.status:
        place.status = record.status
        yield _event("status", place, msgspec.json.encode(job_document(record, None)))
    place.status = OVER
    yield _event("result", place, msgspec.json.encode(job_document(record, result)))


def _log(text: bytes) -> bytes:
    return msgspec.json.encode({"text": text.decode("utf-8", "replace")})


def _event(name: str, place: StreamPosition, data: bytes) -> bytes:
    """`data` is JSON; the line breaks that a function wrote between its tokens begin new lines of data."""
    lines = data.replace(b"\r", b" ").replace(b"\n", b"\ndata: ")
    return b"event: %b\nid: %b\ndata: %b\n\n" % (name.encode(), str(place).encode(), lines)
