"""ANY /fn/{name}[/{path}] and ANY /{name}: a function behind a URL.

Knows: how a request becomes a call and the answer a response. Does not know: the form of the event, what a header may contain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.types import Receive, Scope, Send

from api.auth import Door
from api.body import ClientGone, read_body
from api.calls import Calls, Pending
from api.counts import FUNCTION
from api.errors import problem, problem_of, send_problem, send_reply
from api.gateway_event import url_event
from api.gateway_response import BadFunctionResponse, response_of_result
from api.replies import Reply, Whole, call_headers, failure_reply, pending_reply
from api.wishes import read_wish
from sandlot.errors import RouteNotFound, SandlotError
from sandlot.jobs import JobResult
from sandlot.models import FUNCTION_NAME, LATEST, OutcomeKind
from sandlot.offload import offload
from sandlot.redis.durability import Durability
from sandlot.settings import Settings

_NO_QUERY: Final[Mapping[str, str]] = {}
"""The query of a gateway's request is the function's: what a call asks of us is in headers alone."""


class Gateway:
    """An ASGI application for the routes under /fn, and for whatever no other route takes."""

    def __init__(self, door: Door, calls: Calls, settings: Settings) -> None:
        self._door = door
        self._calls = calls
        self._limit_bytes = settings.payload_limit_bytes
        self._wait_cap_s = settings.wait_cap_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = await self.answer(scope, receive)
        if reply is not None:
            await send_reply(send, *reply)

    async def bare(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What no other route takes: one segment that could be a function's name is one."""
        name = scope["path"][1:]
        if FUNCTION_NAME.match(name):
            scope["path_params"] = {"name": name}
            await self(scope, receive, send)
        else:
            await send_problem(
                scope, send, RouteNotFound(f"nothing is at {scope['path'][:200]}; /docs lists what there is")
            )

    async def answer(self, scope: Scope, receive: Receive) -> Reply | None:
        """The reply; `None` if there is nobody left to read it."""
        parameters = scope["path_params"]
        try:
            return await self._reply(parameters["name"], "/" + parameters.get("path", ""), scope, receive)
        except SandlotError as error:
            return problem_of(error, instance=scope["path"])
        except ClientGone:
            return None

    async def _reply(self, name: str, path: str, scope: Scope, receive: Receive) -> Reply:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        owner, version = await self._door.admit_call(headers, name, LATEST)
        scope[FUNCTION] = version.function
        wish = read_wish(scope, headers, _NO_QUERY, self._wait_cap_s)
        body = await read_body(scope, receive, headers, self._limit_bytes)
        job_id = self._calls.new_job_id(owner)
        event = await offload(len(body), url_event, scope, body, name=name, path=path, job_id=job_id)
        invocation = self._calls.invocation(version, event, owner, wish, job_id=job_id)
        end = await self._calls.call(invocation, wish, scope, receive)
        if isinstance(end, Pending):
            return pending_reply(invocation, end, wish)
        if end.kind is not OutcomeKind.OK:
            return failure_reply(end, scope["path"], wish, self._calls.durability)
        result = end.result if end.stored is None else await self._calls.results.whole(end.stored)
        return await offload(len(result), _response, end, result, scope["path"], self._calls.durability)


def _response(settled: JobResult, result: bytes, instance: str, durability: Durability) -> Whole:
    try:
        status, headers, body = response_of_result(result)
    except BadFunctionResponse as error:
        detail = f"the function's answer cannot be sent: {error}"
        return problem(
            "bad_function_response",
            detail,
            instance=instance,
            members={"job": {"id": settled.job_id}},
            headers=call_headers(settled, durability),
        )
    length = [] if status in (204, 304) else [(b"content-length", b"%d" % len(body))]
    return status, [*headers, *length, *call_headers(settled, durability)], body
