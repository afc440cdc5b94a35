"""Prefer and its relatives, in every spelling that RFC 7240 allows and some that it does not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.call_options import DEFAULTS, CallOptions, read_call_options
from sandlot.errors import CallerError, InvalidPreference


def wish_of(*prefer: str, query: dict[str, str] | None = None, **headers: str) -> CallOptions:
    raw = [(b"prefer", value.encode("latin-1")) for value in prefer]
    raw += [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope: dict[str, Any] = {"headers": raw}
    return read_call_options(scope, dict(raw), query or {}, 300)


def test_nothing_asked_is_nothing_parsed() -> None:
    assert wish_of() is DEFAULTS


@pytest.mark.parametrize(
    ("prefer", "respond_async", "wait_s", "applied"),
    [
        (("respond-async",), True, None, "respond-async"),
        (("Respond-Async",), True, None, "respond-async"),
        (("wait=10",), False, 10, "wait=10"),
        (('wait="10"',), False, 10, "wait=10"),
        (("wait = 10",), False, 10, "wait=10"),
        (("respond-async, wait=10",), True, 10, "respond-async, wait=10"),
        (("respond-async;foo=bar, wait=10; x=y",), True, 10, "respond-async, wait=10"),
        (("respond-async", "wait=10"), True, 10, "respond-async, wait=10"),
        (("wait=10, wait=20",), False, 10, "wait=10"),
        (("wait=0",), False, 0, "wait=0"),
        (("wait=1000",), False, 300, "wait=300"),
        (("wait=never",), False, None, ""),
        (("wait=-1",), False, None, ""),
        (("wait=inf",), False, None, ""),
        (("wait=nan",), False, None, ""),
        (("return=minimal",), False, None, ""),
        (("handling=lenient, unknown",), False, None, ""),
        (("handling=strict, wait=5",), False, 5, "wait=5, handling=strict"),
        ((",,;=,",), False, None, ""),
    ],
)
def test_prefer(prefer: tuple[str, ...], respond_async: bool, wait_s: float | None, applied: str) -> None:
    wish = wish_of(*prefer)
    assert (wish.respond_async, wish.wait_s, wish.applied.decode()) == (respond_async, wait_s, applied)


@pytest.mark.parametrize("prefer", ["wait=never", "wait=301", "return=minimal", "wait"])
def test_strict_refuses_what_it_cannot_honour(prefer: str) -> None:
    with pytest.raises(InvalidPreference):
        wish_of(prefer, "handling=strict")


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=60))
def test_no_prefer_header_is_ever_a_bug(text: str) -> None:
    wish = wish_of(text)
    assert wish.wait_s is None or 0 <= wish.wait_s <= 300
    assert b"\n" not in wish.applied


@pytest.mark.parametrize(
    ("header", "key"),
    [('"a"', "a"), ("a", "a"), (r'"a\"b\\"', 'a"b\\'), ("  a ", "a"), ('"', '"'), ("x" * 255, "x" * 255)],
)
def test_an_idempotency_key_may_be_a_structured_string_or_bare(header: str, key: str) -> None:
    assert wish_of(idempotency_key=header).idempotency_key == key


@pytest.mark.parametrize("header", ["", '""', "x" * 256, "caf\xe9", "a\tb"])
def test_an_invalid_idempotency_key_is_refused(header: str) -> None:
    with pytest.raises(CallerError):
        wish_of(idempotency_key=header)


@pytest.mark.parametrize(
    "header",
    [
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "nonsense",
        "00-A-B-01",
    ],
)
def test_an_invalid_traceparent_is_ignored(header: str) -> None:
    assert wish_of(traceparent=header).traceparent == ""


@pytest.mark.parametrize(("text", "ms"), [("30s", 30_000), ("100ms", 100), ("5m", 300_000)])
def test_durations_have_a_unit(text: str, ms: int) -> None:
    wish = wish_of(x_sandlot_delay=text, x_sandlot_expires=text)
    assert (wish.delay_ms, wish.expires_ms) == (ms, ms)
