"""What a function behind a URL answered, as an HTTP response that cannot break the connection it is sent on.

Knows: Lambda's response form, and which header names and values may pass (RFC 9110). Does not know: jobs, sandboxes.
A header from a function is as hostile as one from the network: a line break would end the connection or start a second response,
`content-length: 1` would cut the body, `transfer-encoding` beside it would let a proxy see two answers.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

import msgspec

from api.errors import Headers
from api.replies import JSON, TEXT, Whole

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
    body = _body(answer.get("body"), answer.get("isBase64Encoded", False))
    if body and status in (204, 205, 304):
        raise BadFunctionResponse(f"statusCode {status} has no body, but the function gave one of {len(body)} bytes")
    headers = _headers(answer.get("headers")) + _cookies(answer.get("cookies"))
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


def _body(value: Any, is_base64: Any) -> bytes:  # noqa: ANN401 - any JSON value
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


def _headers(value: Any) -> Headers:  # noqa: ANN401 - any JSON value
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
