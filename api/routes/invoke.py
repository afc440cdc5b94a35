"""POST /v1/functions/{name}/invoke: the body is the event, the answer is what the function returned.

Knows: the order in which a call is admitted, read, checked, submitted. Does not know: what waiting or failing looks like inside.
This is the hot path: plain ASGI, no dependency injection, the event never decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from api.auth import Authorizer
from api.call_options import read_call_options, read_query
from api.http.body import ClientGone, read_body
from api.http.problems import problem_of, send_reply
from api.invocations import Invocations, Pending
from api.metrics import FUNCTION
from api.responses import (
    DURABILITY,
    RETRY_SOON,
    Reply,
    failure_reply,
    json_reply,
    pending_reply,
    stored_reply,
    value_reply,
)
from sandlot.errors import CallerError, InvalidJson, SandlotError
from sandlot.models import LATEST, OutcomeKind
from sandlot.offload import offload
from sandlot.settings import Settings
from sandlot.strict_json import MAX_DEPTH, check_json

INVOKE_QUERY: Final = frozenset({"version", "async", "wait"})


class Invoke:
    """An ASGI application for one route."""

    def __init__(self, door: Authorizer, calls: Invocations, settings: Settings) -> None:
        self._door = door
        self._calls = calls
        self._limit_bytes = settings.payload_limit_bytes
        self._wait_cap_s = settings.wait_cap_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = await self.answer(scope, receive)
        if reply is not None:
            await send_reply(send, *reply)

    async def answer(self, scope: Scope, receive: Receive) -> Reply | None:
        """The reply; `None` if there is nobody left to read it."""
        try:
            return await self._reply(scope, receive)
        except SandlotError as error:
            return problem_of(error, instance=scope["path"])
        except ClientGone:
            return None

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        query = read_query(scope, INVOKE_QUERY)
        owner, version = await self._door.admit_call(
            headers, scope["path_params"]["name"], query.get("version", LATEST)
        )
        scope[FUNCTION] = version.function
        wish = read_call_options(scope, headers, query, self._wait_cap_s)
        event = await read_body(scope, receive, headers, self._limit_bytes)
        event = await offload(len(event), _checked, event)
        invocation = self._calls.invocation(version, event, owner, wish)
        end = await self._calls.call(invocation, wish, scope, receive)
        if isinstance(end, Pending):
            return pending_reply(invocation, end, wish)
        if end.kind is OutcomeKind.OK:
            if end.stored is not None:
                pieces = self._calls.pieces(end.stored, scope)
                return await stored_reply(end, end.stored, pieces, wish, self._calls.durability)
            return value_reply(end, wish, self._calls.durability)
        return failure_reply(end, scope["path"], wish, self._calls.durability)


def _checked(event: bytes) -> bytes:
    if not event:
        return b"null"
    try:
        check_json(event)
    except InvalidJson as error:
        raise InvalidJson(f"the body, which is the event, is {error.message}") from None
    return event


EVENTS_LIMIT: Final = 1000
BATCH_QUERY: Final = frozenset({"version"})

_array: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Batch:
    """An ASGI application for one route. Its errors are for the app to answer."""

    def __init__(self, door: Authorizer, calls: Invocations, settings: Settings) -> None:
        self._door = door
        self._calls = calls
        self._limit_bytes = settings.payload_limit_bytes
        self._wait_cap_s = settings.wait_cap_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        query = read_query(scope, BATCH_QUERY)
        if b"x-callback-url" in headers:
            raise CallerError("X-Callback-Url is not for batches: ask for the jobs, or call the function once for each")
        owner, version = await self._door.admit_call(
            headers, scope["path_params"]["name"], query.get("version", LATEST)
        )
        scope[FUNCTION] = version.function
        wish = read_call_options(scope, headers, {}, self._wait_cap_s)
        body = await read_body(scope, receive, headers, self._limit_bytes)
        events = await offload(len(body), split_events, body)
        invocations = [
            self._calls.invocation(version, event, owner, msgspec.structs.replace(wish, idempotency_key=""))
            for event in events
        ]
        fingerprint = hashlib.sha256(f"{version.function}\0batch\0".encode() + body).hexdigest()
        jobs = await self._calls.submit_batch(invocations, wish, fingerprint)
        about = [RETRY_SOON, (b"x-function-version", b"%d" % version.number), DURABILITY[self._calls.durability]]
        reply = json_reply(202, {"jobs": jobs}, about)
        await send_reply(send, *reply)


def split_events(body: bytes) -> Sequence[bytes]:
    """The elements of a JSON array, each as it was written.

    Raises:
        InvalidJson: it is no array of values that are all acceptable; the message says which is not, counted from 0.
        CallerError: there are none, or too many.
    """
    try:
        events = [bytes(event) for event in _array.decode(body)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        check_json(body, max_depth=MAX_DEPTH + 1)  # says what is wrong if it is no JSON at all
        raise InvalidJson("the body is no array: a batch is an array of events, as in [{…}, {…}]") from None
    if not 1 <= len(events) <= EVENTS_LIMIT:
        raise CallerError(f"a batch of {len(events)} events; it must have 1 to {EVENTS_LIMIT}")
    for index, event in enumerate(events):
        try:
            check_json(event)
        except InvalidJson as error:
            raise InvalidJson(f"event {index} of the batch is {error.message}") from None
    return events
