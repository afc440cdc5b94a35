"""Hostile requests: a short `make hostile`, named request smuggling, and a stop under attack."""

from __future__ import annotations

import contextlib
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.hostile.grammar import requests
from tests.hostile.throw import GROWTH_LIMIT_MIB, throw
from tests.system.http.conftest import OwnStack, Stack
from tests.waiting import HANG_S

POST = b"POST /v1/functions/echo/invoke HTTP/1.1\r\nhost: a\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
CHUNKED = b"0\r\n\r\n" + SMUGGLED


@pytest.mark.slow
def test_a_short_seeded_run_of_the_grammar_breaks_nothing(stack: Stack) -> None:
    api, url = stack.start_api()
    verdict = throw(url, requests(20_261_125, 400), api.process.pid)
    assert verdict.bad == []
    assert verdict.hung == 0
    assert verdict.growth_mib < GROWTH_LIMIT_MIB
    assert min(verdict.statuses["2xx"], verdict.statuses["4xx"]) > 3, "it is talked to, and not only turned away"
    assert httpx.get(url + "/healthz", trust_env=False).status_code == 200
    assert api.stop() == 0


@pytest.mark.slow
def test_every_reply_is_one_that_the_openapi_document_promises(own: OwnStack) -> None:
    """Run a short part of `make hostile`: Schemathesis generates requests from the document."""
    from tests.hostile.contract import breaches  # a second of imports, which nothing else needs

    _, url = own.start_api(SANDLOT_WAIT_CAP_S="0.5")
    own.start("worker").event("worker started")
    assert list(breaches(url, own.key, 1, seed=20_261_126, brief=True)) == []


@pytest.mark.parametrize(
    ("name", "request_bytes"),
    [
        ("CL+TE", POST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED),
        ("TE+CL", POST + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n" + CHUNKED),
        ("two lengths", POST + b"content-length: 0\r\ncontent-length: 36\r\n\r\n" + SMUGGLED),
        ("twice the same length", POST + b"content-length: 1\r\ncontent-length: 1\r\n\r\n1" + SMUGGLED),
        ("a list of lengths", POST + b"content-length: 1, 1\r\n\r\n1" + SMUGGLED),
        ("plus", POST + b"content-length: +1\r\n\r\n1" + SMUGGLED),
        ("minus", POST + b"content-length: -1\r\n\r\n" + SMUGGLED),
        ("hexadecimal", POST + b"content-length: 0x1\r\n\r\n1" + SMUGGLED),
        ("underscore", POST + b"content-length: 1_0\r\n\r\n1" + SMUGGLED),
        ("too large a number", POST + b"content-length: 18446744073709551617\r\n\r\n1" + SMUGGLED),
        ("space before the colon", POST + b"content-length : 1\r\n\r\n1" + SMUGGLED),
        ("obs-fold", POST + b"x: y\r\n content-length: 36\r\n\r\n" + SMUGGLED),
        ("folded TE", POST + b"transfer-encoding:\r\n chunked\r\n\r\n" + CHUNKED),
        ("bare LF between headers", POST.replace(b"host: a\r\n", b"host: a\n") + b"content-length: 1\r\n\r\n1" + SMUGGLED),
        ("bare LF at the end", POST + b"content-length: 1\r\n\n1" + SMUGGLED),
        ("bare CR", POST + b"x: y\rcontent-length: 36\r\n\r\n" + SMUGGLED),
        ("xchunked", POST + b"transfer-encoding: xchunked\r\n\r\n" + CHUNKED),
        ("chunked, identity", POST + b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKED),
        ("identity", POST + b"transfer-encoding: identity\r\ncontent-length: 0\r\n\r\n" + SMUGGLED),
        ("vertical tab", POST + b"transfer-encoding:\x0bchunked\r\n\r\n" + CHUNKED),
        ("quoted", POST + b'transfer-encoding: "chunked"\r\n\r\n' + CHUNKED),
        ("gzip, chunked", POST + b"transfer-encoding: gzip, chunked\r\n\r\n" + CHUNKED),
        ("chunked twice", POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED),
        ("NUL in a name", POST + b"content\x00-length: 36\r\n\r\n" + SMUGGLED),
        ("odd chunk size", POST + b"transfer-encoding: chunked\r\n\r\n-1\r\n" + SMUGGLED),
        ("chunk size 0x", POST + b"transfer-encoding: chunked\r\n\r\n0x1\r\n1\r\n" + CHUNKED),
        ("chunk with bare LF", POST + b"transfer-encoding: chunked\r\n\r\n1\n1\n" + CHUNKED),
        ("TE in HTTP/1.0", POST.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED),
        ("no host", POST.replace(b"host: a\r\n", b"") + b"content-length: 1\r\n\r\n1" + SMUGGLED),
        ("two hosts", POST + b"host: b\r\ncontent-length: 1\r\n\r\n1" + SMUGGLED),
    ],
)  # fmt: skip
def test_a_request_that_two_parsers_could_read_differently_is_refused(
    stack: Stack, name: str, request_bytes: bytes
) -> None:
    parts = urlsplit(stack.url)
    answer = b""
    with (
        socket.create_connection((parts.hostname, parts.port), timeout=HANG_S) as wire,
        contextlib.suppress(ConnectionResetError),
    ):
        wire.sendall(request_bytes)
        while chunk := wire.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1, "nothing after it was taken for a request"
    assert b"connection: close\r\n" in answer


@pytest.mark.slow
def test_a_stop_ends_in_time_with_any_connection_open(stack: Stack) -> None:
    api, url = stack.start_api(SANDLOT_SHUTDOWN_GRACE_S="2")
    parts = urlsplit(url)
    shapes = [
        b"", b"P", b"POST /v1/functions/echo/invoke HTTP/1.1\r\nhost", POST + b"content-length: 10\r\n\r\n123",
        POST + b"transfer-encoding: chunked\r\n\r\n3\r\nabc", POST + b"content-length: 10\r\nexpect: 100-continue\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n", b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\nGET /heal",
        POST.replace(b"echo", b"sleeps") + b"content-length: 2\r\n\r\n15", b"PUT /v1/functions/x HTTP/1.1\r\nhost: a\r\ncontent-length: 99\r\n\r\n{",
    ]  # fmt: skip
    with contextlib.ExitStack() as wires:
        opened = []
        for shape in shapes * 3:
            wire = wires.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=HANG_S))
            wire.sendall(shape)
            opened.append((shape, wire))
        with stack.client(url=url) as watcher:
            while watcher.get("/readyz").json()["running"] < 3:
                pass
        began_s = time.monotonic()
        assert api.stop() == 0
        assert time.monotonic() - began_s < 12
        for shape, wire in opened:
            if b"sleeps" in shape:
                answer = wire.recv(65536)
                assert answer.startswith(b"HTTP/1.1 503 "), answer
                assert b"\r\nlocation: /v1/jobs/" in answer, "a waiting caller gets the location of its job"
