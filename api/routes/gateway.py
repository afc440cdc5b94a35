"""The gateway: functions behind URLs, with the events and answers of Lambda function URLs.

A request becomes an event of payload format 2.0, and the function's value becomes a response:
https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from api.auth import is_sandlot_key
from api.call_options import CallOptions
from api.http.problems import Headers, problem, send_problem
from api.invocations import Pending
from api.operations.calls import CALL_URL
from api.responses import JSON, TEXT, CompleteReply, HttpReply, call_headers, failure_reply, pending_reply
from api.routes.invoke import CallRoute
from sandlot.errors import RouteNotFound
from sandlot.functions import Version
from sandlot.jobs import JobResult
from sandlot.models import FUNCTION_NAME, OutcomeKind
from sandlot.offload import offload
from sandlot.redis.durability import Durability

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_HEADERS_LIMIT_BYTES: Final = 32 * 1024

DROPPED_HEADERS: Final = frozenset(
    # Hop-by-hop headers (RFC 9110, section 7.6.1) and those that the server or Sandlot sets.
    {
        "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade",
        "content-length", "date", "server", "x-request-id", "x-job-id", "x-function-version", "x-sandlot-outcome", "x-durability", "server-timing",
    }
)  # fmt: skip


class Gateway(CallRoute):
    """Serves the paths under /fn and, through `bare`, paths that no route matches."""

    operation = CALL_URL
    """All three operations of the gateway read the same parameters."""

    async def bare(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the function that a path of one segment names; answer 404 to any other path."""
        name = scope["path"][1:]
        if FUNCTION_NAME.match(name):
            scope["path_params"] = {"name": name}
            await self(scope, receive, send)
        else:
            await send_problem(
                scope, send, RouteNotFound(f"nothing is at {scope['path'][:200]}; /docs lists the paths")
            )

    async def _run(
        self, scope: Scope, receive: Receive, owner: str, version: Version, options: CallOptions, body: bytes
    ) -> HttpReply:
        name, path = scope["path_params"]["name"], "/" + scope["path_params"].get("path", "")
        job_id = self._invocations.new_job_id(owner)
        event = await offload(len(body), url_event, scope, body, name=name, path=path, job_id=job_id)
        invocation = self._invocations.make_invocation(version, event, owner, options, job_id=job_id)
        ended = await self._invocations.call(invocation, options, scope, receive)
        if isinstance(ended, Pending):
            return pending_reply(invocation, ended, options)
        if ended.kind is not OutcomeKind.OK:
            return failure_reply(ended, scope["path"], options, self._invocations.durability)
        result = ended.result if ended.stored is None else await self._invocations.large_results.whole(ended.stored)
        return await offload(len(result), _function_reply, ended, result, scope["path"], self._invocations.durability)


def _function_reply(ended: JobResult, result: bytes, instance: str, durability: Durability) -> CompleteReply:
    try:
        status, headers, body = response_from_result(result)
    except BadFunctionResponse as error:
        detail = f"the function's answer cannot be sent: {error}"
        return problem(
            "bad_function_response",
            detail,
            instance=instance,
            members={"job": {"id": ended.job_id}},
            headers=call_headers(ended, durability),
        )
    length = [] if status in (204, 304) else [(b"content-length", b"%d" % len(body))]
    return status, [*headers, *length, *call_headers(ended, durability)], body


def url_event(scope: Scope, body: bytes, *, name: str, path: str, job_id: str) -> bytes:
    """Return the request as an event in JSON.

    A body in UTF-8 is passed as text, any other as base64. A Sandlot API key is left out; other
    credentials are for the function.
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
            # As in the common log format: English months in every locale.
            "time": f"{now.day:02}/{_MONTHS[now.month - 1]}/{now:%Y:%H:%M:%S} +0000",
            "timeEpoch": round(now.timestamp() * 1000),
        },
        "isBase64Encoded": is_base64,
    }
    if cookies:
        event["cookies"] = cookies
    if query:
        event["queryStringParameters"] = _join_repeated(parse_qsl(query, keep_blank_values=True))
    if body:
        event["body"] = text
    return msgspec.json.encode(event)


def _event_headers(raw: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], list[str]]:
    cookies: list[str] = []
    pairs: list[tuple[str, str]] = []
    for name, value in raw:
        if name == b"cookie":
            cookies += [cookie.strip() for cookie in value.decode("latin-1").split(";")]
        elif not (name == b"authorization" and is_sandlot_key(value)):
            pairs.append((name.decode("latin-1"), value.decode("latin-1")))
    return _join_repeated(pairs), cookies


def _join_repeated(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Join the values of a repeated name with commas."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _event_body(body: bytes) -> tuple[str, bool]:
    try:
        return body.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True


class BadFunctionResponse(Exception):
    """The function's answer has a `statusCode` but is not a valid response, as the message says."""


def response_from_result(result: bytes) -> CompleteReply:
    """Return the response that a result describes.

    An object with `statusCode` is a response; any other JSON value is the body of a 200.

    Raises:
        BadFunctionResponse: the object cannot be sent as a response.
    """
    answer = msgspec.json.decode(result) if b'"statusCode"' in result and result.lstrip()[:1] == b"{" else None
    if not isinstance(answer, dict) or "statusCode" not in answer:
        return 200, [JSON], result
    status = _status(answer["statusCode"])
    body = _reply_body(answer.get("body"), answer.get("isBase64Encoded", False))
    if body and status in (204, 205, 304):
        raise BadFunctionResponse(
            f"statusCode {status} allows no body, but the function returned one of {len(body)} bytes"
        )
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
        raise BadFunctionResponse("cookies is not an array of strings")
    return [header for cookie in value if (header := _header("set-cookie", cookie)) is not None]


def _header(name: str, value: Any) -> tuple[bytes, bytes] | None:  # noqa: ANN401 - any JSON value
    """Return the header as it is sent; None for one that a function may not set."""
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str):
        raise BadFunctionResponse(f"the header {name!r:.80} has a value that is neither a string nor a number")
    if not _TOKEN.fullmatch(name):
        raise BadFunctionResponse(f"{name!r:.80} is not a valid header name")
    if not _VALUE.fullmatch(value):
        raise BadFunctionResponse(
            f"the header {name!r:.80} has a value that cannot be sent (a line break, a control or a non-Latin-1 character)"
        )
    lowered = name.lower()
    return None if lowered in DROPPED_HEADERS else (lowered.encode(), value.strip().encode("latin-1"))
