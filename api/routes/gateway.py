"""An HTTP request as the event that a function behind a URL gets (Lambda's function URL, payload format 2.0).

Knows: the fields and how they are spelled. Does not know: which function gets it, what it answers.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from api.auth import Authorizer, is_ours
from api.call_options import read_call_options
from api.http.body import ClientGone, read_body
from api.http.problems import Headers, problem, problem_of, send_problem, send_reply
from api.invocations import Invocations, Pending
from api.metrics import FUNCTION
from api.responses import JSON, TEXT, Reply, Whole, call_headers, failure_reply, pending_reply
from sandlot.errors import RouteNotFound, SandlotError
from sandlot.jobs import JobResult
from sandlot.models import FUNCTION_NAME, LATEST, OutcomeKind
from sandlot.offload import offload
from sandlot.redis.durability import Durability
from sandlot.settings import Settings

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def url_event(scope: Scope, body: bytes, *, name: str, path: str, job_id: str) -> bytes:
    """The event as JSON text.

    A body that is UTF-8 is passed as text, any other as base64. Our own API key is not passed on; other credentials are the function's.
    """
    headers, cookies = _event_headers(scope["headers"])
    query = scope["query_string"].decode("latin-1")
    now = datetime.now(UTC)
    domain = headers.get("host", "")
    text, is_base64 = _event_body(body)
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": name,
            "domainName": domain,
            "domainPrefix": domain.split(".")[0].split(":")[0],
            "http": {
                "method": scope["method"],
                "path": path,
                "protocol": f"HTTP/{scope['http_version']}",
                "sourceIp": scope["client"][0] if scope.get("client") else "",
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": job_id,
            "routeKey": "$default",
            "stage": "$default",
            # English months whatever the locale, as in a common log line.
            "time": f"{now.day:02}/{_MONTHS[now.month - 1]}/{now:%Y:%H:%M:%S} +0000",
            "timeEpoch": round(now.timestamp() * 1000),
        },
        "isBase64Encoded": is_base64,
    }
    if cookies:
        event["cookies"] = cookies
    if query:
        event["queryStringParameters"] = _joined(parse_qsl(query, keep_blank_values=True))
    if body:
        event["body"] = text
    return msgspec.json.encode(event)


def _event_headers(raw: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], list[str]]:
    cookies: list[str] = []
    pairs: list[tuple[str, str]] = []
    for name, value in raw:
        if name == b"cookie":
            cookies += [cookie.strip() for cookie in value.decode("latin-1").split(";")]
        elif not (name == b"authorization" and is_ours(value)):
            pairs.append((name.decode("latin-1"), value.decode("latin-1")))
    return _joined(pairs), cookies


def _joined(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """What is there several times is joined with commas."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _event_body(body: bytes) -> tuple[str, bool]:
    try:
        return body.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True


_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_HEADERS_LIMIT_BYTES: Final = 32 * 1024

DROPPED: Final = frozenset(
    # Hop by hop (RFC 9110, section 7.6.1), what only the server can know, and what only Sandlot says.
    {
        "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade",
        "content-length", "date", "server", "x-request-id", "x-job-id", "x-function-version", "x-sandlot-outcome", "x-durability", "server-timing",
    }
)  # fmt: skip


class BadFunctionResponse(Exception):
    """The function's answer claims to be an HTTP response and cannot be one; the message says why."""


def response_of_result(result: bytes) -> Whole:
    """An object with `statusCode` is a response; any other JSON is the body of a 200.

    Raises:
        BadFunctionResponse: the object cannot be sent.
    """
    answer = msgspec.json.decode(result) if b'"statusCode"' in result and result.lstrip()[:1] == b"{" else None
    if not isinstance(answer, dict) or "statusCode" not in answer:
        return 200, [JSON], result
    status = _status(answer["statusCode"])
    body = _reply_body(answer.get("body"), answer.get("isBase64Encoded", False))
    if body and status in (204, 205, 304):
        raise BadFunctionResponse(f"statusCode {status} has no body, but the function gave one of {len(body)} bytes")
    headers = _reply_headers(answer.get("headers")) + _cookies(answer.get("cookies"))
    if body and not any(name == b"content-type" for name, _ in headers):
        headers.append(JSON if isinstance(answer.get("body"), (dict, list)) else TEXT)
    if sum(len(name) + len(value) for name, value in headers) > _HEADERS_LIMIT_BYTES:
        raise BadFunctionResponse(f"the headers have more than {_HEADERS_LIMIT_BYTES} bytes")
    return status, headers, body


def _status(value: Any) -> int:  # noqa: ANN401 - any JSON value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:4])
    if not isinstance(value, int) or isinstance(value, bool) or not 200 <= value <= 599:
        raise BadFunctionResponse(f"statusCode {value!r:.40} is not a number from 200 to 599")
    return value


def _reply_body(value: Any, is_base64: Any) -> bytes:  # noqa: ANN401 - any JSON value
    if value is None:
        return b""
    if not isinstance(value, str):
        return msgspec.json.encode(value)
    if not is_base64:
        return value.encode()
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadFunctionResponse(f"isBase64Encoded is true, but the body is not base64: {error}") from None


def _reply_headers(value: Any) -> Headers:  # noqa: ANN401 - any JSON value
    if value is None:
        return []
    if not isinstance(value, dict):
        raise BadFunctionResponse("headers is not an object of names and values")
    headers: Headers = []
    for name, content in value.items():
        for one in content if isinstance(content, list) else [content]:
            header = _header(name, one)
            if header is not None:
                headers.append(header)
    return headers


def _cookies(value: Any) -> Headers:  # noqa: ANN401 - any JSON value
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadFunctionResponse("cookies is not an array of texts")
    return [header for cookie in value if (header := _header("set-cookie", cookie)) is not None]


def _header(name: str, value: Any) -> tuple[bytes, bytes] | None:  # noqa: ANN401 - any JSON value
    """The header as it is sent, `None` for one that is not the function's to send."""
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str):
        raise BadFunctionResponse(f"the header {name!r:.80} has a value that is neither a text nor a number")
    if not _TOKEN.fullmatch(name):
        raise BadFunctionResponse(f"{name!r:.80} is not the name of a header")
    if not _VALUE.fullmatch(value):
        raise BadFunctionResponse(
            f"the header {name!r:.80} has a value that cannot be sent (a line break, a control or a non-Latin-1 character)"
        )
    lowered = name.lower()
    return None if lowered in DROPPED else (lowered.encode(), value.strip().encode("latin-1"))


_NO_QUERY: Final[Mapping[str, str]] = {}
"""The query of a gateway's request is the function's: what a call asks of us is in headers alone."""


class Gateway:
    """An ASGI application for the routes under /fn, and for whatever no other route takes."""

    def __init__(self, door: Authorizer, calls: Invocations, settings: Settings) -> None:
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
        wish = read_call_options(scope, headers, _NO_QUERY, self._wait_cap_s)
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
