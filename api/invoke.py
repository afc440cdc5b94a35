"""POST /v1/functions/{name}/invoke: the body is the event, the answer is what the function returned.

Knows: the order in which a call is admitted, read, checked, submitted. Does not know: what waiting or failing looks like inside.
This is the hot path: plain ASGI, no dependency injection, the event never decoded.
"""

from __future__ import annotations

from typing import Final

from starlette.types import Receive, Scope, Send

from api.auth import Door
from api.body import ClientGone, read_body
from api.calls import Calls, Pending
from api.counts import FUNCTION
from api.errors import problem_of, send_reply
from api.replies import Reply, failure_reply, pending_reply, stored_reply, value_reply
from api.wishes import read_query, read_wish
from sandlot.errors import InvalidJson, SandlotError
from sandlot.models import LATEST, OutcomeKind
from sandlot.offload import offload
from sandlot.settings import Settings
from sandlot.strict_json import check_json

QUERY: Final = frozenset({"version", "async", "wait"})


class Invoke:
    """An ASGI application for one route."""

    def __init__(self, door: Door, calls: Calls, settings: Settings) -> None:
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
        query = read_query(scope, QUERY)
        owner, version = await self._door.admit_call(
            headers, scope["path_params"]["name"], query.get("version", LATEST)
        )
        scope[FUNCTION] = version.function
        wish = read_wish(scope, headers, query, self._wait_cap_s)
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
