"""An HTTP request as the event that a function behind a URL gets (Lambda's function URL, payload format 2.0).

Knows: the fields and how they are spelled. Does not know: which function gets it, what it answers.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Scope

from api.auth import is_ours

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def url_event(scope: Scope, body: bytes, *, name: str, path: str, job_id: str) -> bytes:
    """The event as JSON text.

    A body that is UTF-8 is passed as text, any other as base64. Our own API key is not passed on; other credentials are the function's.
    """
    headers, cookies = _headers(scope["headers"])
    query = scope["query_string"].decode("latin-1")
    now = datetime.now(UTC)
    domain = headers.get("host", "")
    text, is_base64 = _body(body)
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


def _headers(raw: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], list[str]]:
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


def _body(body: bytes) -> tuple[str, bool]:
    try:
        return body.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True
