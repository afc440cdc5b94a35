"""Per-call options: wait time, delay, expiry, idempotency key, callback, trace context.

They come from Prefer (RFC 7240), Idempotency-Key, traceparent and the X-Sandlot headers, and from
the query.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Scope

from api.operations.calls import CALL_HEADERS
from sandlot.errors import CallerError, InvalidPreference
from sandlot.units import parse_duration

_PREFERENCE: Final = re.compile(
    r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*("[^"]*"|[^\s,;"]*))?(?:\s*;[^,]*)?\s*(?:,|$)"""
)
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_KEY_LIMIT: Final = 255
_DELAY_LIMIT_S: Final = 31 * 86_400

HEADERS: Final = frozenset(parameter.name.lower().encode() for parameter in CALL_HEADERS)
"""The headers that hold call options; a request without them has the default options."""


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one call. `wait_s` is already limited to the server's cap."""

    respond_async: bool = False
    wait_s: float | None = None
    applied: bytes = b""
    """The value of Preference-Applied; empty for none."""
    cancel_on_disconnect: bool | None = None
    """None: as the function's manifest says."""
    delay_ms: int = 0
    expires_ms: int = 0
    idempotency_key: str = ""
    traceparent: str = ""
    callback_url: str = ""
    """Unchecked; `Invocations.make_invocation` decides whether this URL may be called."""


DEFAULTS: Final = CallOptions()
"""The options of most calls: wait for the end, nothing else."""


def read_call_options(
    scope: Scope, headers: Mapping[bytes, bytes], query: Mapping[str, str], wait_cap_s: float
) -> CallOptions:
    """Return the call options of a request.

    Raises:
        InvalidPreference: Prefer has `handling=strict` and something that cannot be honoured.
        CallerError: a header or query parameter has an invalid value.
    """
    if not query and HEADERS.isdisjoint(headers):
        return DEFAULTS
    respond_async, wait_s, applied = _read_prefer(_prefer_of(scope), wait_cap_s)
    if "async" in query:
        respond_async = _read_flag(query["async"])
    if "wait" in query:
        wait_s = min(_read_query_wait(query["wait"]), wait_cap_s)
    return CallOptions(
        respond_async=respond_async,
        wait_s=wait_s,
        applied=applied,
        cancel_on_disconnect=_read_on_disconnect(headers.get(b"x-sandlot-on-disconnect")),
        delay_ms=_read_duration_ms("X-Sandlot-Delay", headers.get(b"x-sandlot-delay")),
        expires_ms=_read_duration_ms("X-Sandlot-Expires", headers.get(b"x-sandlot-expires")),
        idempotency_key=_read_idempotency_key(headers.get(b"idempotency-key")),
        traceparent=_read_traceparent(headers.get(b"traceparent", b"")),
        callback_url=headers.get(b"x-callback-url", b"").decode("latin-1").strip(),
    )


def read_query(scope: Scope, allowed: frozenset[str]) -> dict[str, str]:
    """Return the query parameters by name.

    Raises:
        CallerError: a parameter is unknown, which would otherwise have no effect, or given twice.
    """
    if not scope["query_string"]:
        return {}
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=None)
    query = dict(pairs)
    for name in query:
        if name not in allowed:
            raise CallerError(
                f"unknown query parameter {name[:80]!r}; there {'is' if len(allowed) == 1 else 'are'}: {', '.join(sorted(allowed))}"
            )
    if len(query) != len(pairs):
        raise CallerError("a query parameter is given twice")
    return query


def read_wait(scope: Scope, query: Mapping[str, str], wait_cap_s: float) -> tuple[float | None, bytes]:
    """Return the seconds that a long poll waits and the value of Preference-Applied.

    The query parameter `wait` overrides Prefer. Without either, the seconds are None.

    Raises:
        InvalidPreference: Prefer has `handling=strict` and something that cannot be honoured.
        CallerError: the query parameter is not a number of seconds.
    """
    _, wait_s, applied = _read_prefer(_prefer_of(scope), wait_cap_s, knows_async=False)
    if "wait" in query:
        wait_s = min(_read_query_wait(query["wait"]), wait_cap_s)
    return wait_s, applied


def _prefer_of(scope: Scope) -> str:
    """Return all Prefer headers as one list."""
    return ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"prefer")


def _read_prefer(text: str, wait_cap_s: float, *, knows_async: bool = True) -> tuple[bool, float | None, bytes]:
    if not text:
        return False, None, b""
    preferences: dict[str, str] = {}
    for found in _PREFERENCE.finditer(text):
        # The first of several counts (RFC 7240, section 2).
        preferences.setdefault(found[1].lower(), (found[2] or "").strip('"'))
    strict = preferences.pop("handling", "lenient").lower() == "strict"
    respond_async = knows_async and preferences.pop("respond-async", None) is not None
    asked = preferences.pop("wait", None)
    wait_s = None if asked is None else _seconds(asked)
    if strict:
        _check_preferences(preferences, asked, wait_s, wait_cap_s)
    if wait_s is not None:
        wait_s = min(wait_s, wait_cap_s)
    applied = ["respond-async"] if respond_async else []
    if wait_s is not None:
        applied.append(f"wait={wait_s:g}")
    if strict:
        applied.append("handling=strict")
    return respond_async, wait_s, ", ".join(applied).encode()


def _check_preferences(unknown: Mapping[str, str], asked: str | None, wait_s: float | None, wait_cap_s: float) -> None:
    if unknown:
        raise InvalidPreference(
            f"Prefer: {next(iter(unknown))[:80]} is not a known preference; there are: respond-async, wait, handling"
        )
    if asked is not None and wait_s is None:
        raise InvalidPreference(f"Prefer: wait={asked[:80]} is not a number of seconds")
    if wait_s is not None and wait_s > wait_cap_s:
        raise InvalidPreference(
            f"Prefer: wait={wait_s:g} exceeds the longest wait of this server, {wait_cap_s:g}", limit_s=wait_cap_s
        )


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _read_query_wait(text: str) -> float:
    wait_s = _seconds(text)
    if wait_s is None:
        raise CallerError(f"wait={text[:80]} is not a number of seconds")
    return wait_s


def _read_flag(text: str) -> bool:
    if text.lower() in ("true", "1", ""):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise CallerError(f"async={text[:80]} is neither true nor false")


def _read_on_disconnect(value: bytes | None) -> bool | None:
    if value is None:
        return None
    text = value.decode("latin-1").strip().lower()
    if text not in ("cancel", "detach"):
        raise CallerError(f"X-Sandlot-On-Disconnect: {text[:80]} is neither cancel nor detach")
    return text == "cancel"


def _read_duration_ms(name: str, value: bytes | None) -> int:
    if value is None:
        return 0
    text = value.decode("latin-1").strip()
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise CallerError(f"{name}: {text[:80]} is not a duration such as 30s or 5m: {error}") from None
    if not 0 < seconds <= _DELAY_LIMIT_S:
        raise CallerError(f"{name}: {text[:80]} is not between 1ms and 31 days")
    return max(1, round(seconds * 1000))


def _read_idempotency_key(value: bytes | None) -> str:
    """Return the key from a structured-field string (RFC 8941, section 3.3.3) or from bare text.

    Most clients send bare text.
    """
    if value is None:
        return ""
    text = value.decode("latin-1").strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = re.sub(r"\\([\"\\])", r"\1", text[1:-1])
    if not text or len(text) > _KEY_LIMIT or not text.isascii() or not text.isprintable():
        raise CallerError(f"Idempotency-Key must be 1 to {_KEY_LIMIT} printable ASCII characters; it has {len(text)}")
    return text


def _read_traceparent(value: bytes) -> str:
    """Return the header, or nothing if it is invalid (W3C Trace Context, section 3.2.2.3)."""
    return value.decode() if _TRACEPARENT.fullmatch(value) else ""
