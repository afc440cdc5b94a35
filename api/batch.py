"""POST /v1/functions/{name}/invoke-batch: an array of events, each of which becomes a job, all of them or none.

Knows: how the array is taken apart without decoding the events. Does not know: how jobs are queued.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from api.auth import Door
from api.body import read_body
from api.calls import Calls
from api.counts import FUNCTION
from api.errors import send_reply
from api.replies import DURABILITY, RETRY_SOON, json_reply
from api.wishes import read_query, read_wish
from sandlot.errors import CallerError, InvalidJson
from sandlot.models import LATEST
from sandlot.offload import offload
from sandlot.settings import Settings
from sandlot.strict_json import MAX_DEPTH, check_json

EVENTS_LIMIT: Final = 1000
QUERY: Final = frozenset({"version"})

_array: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Batch:
    """An ASGI application for one route. Its errors are for the app to answer."""

    def __init__(self, door: Door, calls: Calls, settings: Settings) -> None:
        self._door = door
        self._calls = calls
        self._limit_bytes = settings.payload_limit_bytes
        self._wait_cap_s = settings.wait_cap_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        query = read_query(scope, QUERY)
        if b"x-callback-url" in headers:
            raise CallerError("X-Callback-Url is not for batches: ask for the jobs, or call the function once for each")
        owner, version = await self._door.admit_call(
            headers, scope["path_params"]["name"], query.get("version", LATEST)
        )
        scope[FUNCTION] = version.function
        wish = read_wish(scope, headers, {}, self._wait_cap_s)
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
