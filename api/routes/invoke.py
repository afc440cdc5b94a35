"""POST /v1/functions/{name}/invoke and /invoke-batch, and what they share with the gateway.

These are plain ASGI applications: a call is the hot path, and FastAPI's work per request takes
40 µs of CPU (docs/decisions/0014). The event stays bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import msgspec
from starlette.types import Receive, Scope, Send

from api.auth import Authorizer
from api.call_options import CallOptions, read_call_options, read_query
from api.http.body import ClientGone, read_body
from api.http.problems import problem_of, send_reply
from api.invocations import Invocations, Pending
from api.metrics import FUNCTION
from api.operations import Operation
from api.operations.calls import INVOKE, INVOKE_BATCH
from api.responses import (
    DURABILITY,
    RETRY_SOON,
    HttpReply,
    failure_reply,
    json_reply,
    pending_reply,
    stored_reply,
    value_reply,
)
from sandlot.errors import CallerError, InvalidJson, SandlotError
from sandlot.functions import Version
from sandlot.models import LATEST, OutcomeKind
from sandlot.offload import offload
from sandlot.settings import Settings
from sandlot.strict_json import MAX_DEPTH, check_json

EVENTS_LIMIT: Final = 1000
"""The largest number of events in a batch."""
_NO_QUERY: Final[Mapping[str, str]] = {}
_decode_array: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


class CallRoute:
    """An ASGI application that calls a function: authorize, read options and body, run."""

    operation: ClassVar[Operation]

    def __init__(self, authorizer: Authorizer, invocations: Invocations, settings: Settings) -> None:
        self._authorizer = authorizer
        self._invocations = invocations
        self._limit_bytes = settings.payload_limit_bytes
        self._wait_cap_s = settings.wait_cap_s
        self._query_names = None if self.operation.ignores_query else self.operation.query_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = await self.answer(scope, receive)
        if reply is not None:
            await send_reply(send, *reply)

    async def answer(self, scope: Scope, receive: Receive) -> HttpReply | None:
        """Return the reply; None if the caller has disconnected."""
        try:
            headers: dict[bytes, bytes] = dict(scope["headers"])
            query = _NO_QUERY if self._query_names is None else read_query(scope, self._query_names)
            owner, version = await self._authorizer.authorize_call(
                headers, scope["path_params"]["name"], query.get("version", LATEST)
            )
            scope[FUNCTION] = version.function
            options = read_call_options(scope, headers, query, self._wait_cap_s)
            body = await read_body(scope, receive, headers, self._limit_bytes)
            return await self._run(scope, receive, owner, version, options, body)
        except SandlotError as error:
            return problem_of(error, instance=scope["path"])
        except ClientGone:
            return None

    async def _run(
        self, scope: Scope, receive: Receive, owner: str, version: Version, options: CallOptions, body: bytes
    ) -> HttpReply:
        """Run an authorized call and return its reply."""
        raise NotImplementedError


class Invoke(CallRoute):
    """Calls a function with the body as its event and answers with the value that it returns."""

    operation = INVOKE

    async def _run(
        self, scope: Scope, receive: Receive, owner: str, version: Version, options: CallOptions, body: bytes
    ) -> HttpReply:
        event = await offload(len(body), _check_event, body)
        invocation = self._invocations.make_invocation(version, event, owner, options)
        ended = await self._invocations.call(invocation, options, scope, receive)
        if isinstance(ended, Pending):
            return pending_reply(invocation, ended, options)
        if ended.kind is OutcomeKind.OK:
            if ended.stored is not None:
                chunks = self._invocations.read_stored(ended.stored, scope)
                return await stored_reply(ended, ended.stored, chunks, options, self._invocations.durability)
            return value_reply(ended, options, self._invocations.durability)
        return failure_reply(ended, scope["path"], options, self._invocations.durability)


def _check_event(body: bytes) -> bytes:
    """Return the event; an empty body means null.

    Raises:
        InvalidJson: the body is not acceptable JSON.
    """
    if not body:
        return b"null"
    try:
        check_json(body)
    except InvalidJson as error:
        raise InvalidJson(f"the body, which is the event, is {error.message}") from None
    return body


class Batch(CallRoute):
    """Submits each element of an array as a job of its own and answers with their ids."""

    operation = INVOKE_BATCH

    async def answer(self, scope: Scope, receive: Receive) -> HttpReply | None:
        if any(name == b"x-callback-url" for name, _ in scope["headers"]):
            error = CallerError(
                "X-Callback-Url is not for batches: poll the jobs, or call the function once for each event"
            )
            return problem_of(error, instance=scope["path"])
        return await super().answer(scope, receive)

    async def _run(
        self, scope: Scope, receive: Receive, owner: str, version: Version, options: CallOptions, body: bytes
    ) -> HttpReply:
        events = await offload(len(body), split_events, body)
        each = msgspec.structs.replace(options, idempotency_key="")
        invocations = [self._invocations.make_invocation(version, event, owner, each) for event in events]
        fingerprint = hashlib.sha256(f"{version.function}\0batch\0".encode() + body).hexdigest()
        jobs = await self._invocations.submit_batch(invocations, options, fingerprint)
        headers = [
            RETRY_SOON,
            (b"x-function-version", b"%d" % version.number),
            DURABILITY[self._invocations.durability],
        ]
        return json_reply(202, {"jobs": jobs}, headers)


def split_events(body: bytes) -> Sequence[bytes]:
    """Return the elements of a JSON array, each as the bytes that the caller wrote.

    Raises:
        InvalidJson: the body is not an array of acceptable values; the message gives the index of
            the first bad one, from 0.
        CallerError: there are no events, or too many.
    """
    try:
        events = [bytes(event) for event in _decode_array(body)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        check_json(body, max_depth=MAX_DEPTH + 1)  # raises a precise error if the body is not JSON at all
        raise InvalidJson("the body is not an array: a batch is an array of events, as in [{…}, {…}]") from None
    if not 1 <= len(events) <= EVENTS_LIMIT:
        raise CallerError(f"a batch of {len(events)} events; it must have 1 to {EVENTS_LIMIT}")
    for index, event in enumerate(events):
        try:
            check_json(event)
        except InvalidJson as error:
            raise InvalidJson(f"event {index} of the batch is {error.message}") from None
    return events
