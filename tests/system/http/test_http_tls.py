"""The API over TLS, and how many connections it takes."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from sandlot.client import Client
from tests.certificates import Authority
from tests.system.http.conftest import OwnStack, Stack
from tests.waiting import HANG_S, until


def serial(url: str, authority: Authority) -> int:
    """The number of the certificate that a new connection is shown, once it has been believed."""
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=str(authority.ca))
    with (
        socket.create_connection((parts.hostname, parts.port), timeout=HANG_S) as plain,
        context.wrap_socket(plain, server_hostname=parts.hostname) as wire,
    ):
        shown: Any = wire.getpeercert()
        return int(shown["serialNumber"], 16)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_calls_use_tls_and_sighup_loads_a_renewed_certificate(stack: Stack, tmp_path: Path, processes: str) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("api")
    api, url = stack.start_api(
        SANDLOT_TLS_CERT=str(certificate), SANDLOT_TLS_KEY=str(key), SANDLOT_API_PROCESSES=processes
    )
    assert url.startswith("https://127.0.0.1:")
    believing = ssl.create_default_context(cafile=str(authority.ca))
    with httpx.Client(base_url=url, verify=believing, timeout=HANG_S, trust_env=False) as client:
        assert client.post("/v1/functions/echo/invoke", content=b'"x"').content == b'"x"'
        large = b'"' + b"x" * 1_000_000 + b'"'
        assert client.post("/v1/functions/echo/invoke", content=large).content == large
        with Client(url, stack.key, ca_file=authority.ca) as ours:
            assert ours.invoke("echo", 1).json() == 1
        before = serial(url, authority)
        authority.issue("api")
        api.process.send_signal(signal.SIGHUP)
        until(lambda: serial(url, authority) != before and serial(url, authority) != before)
        if processes == "1":
            assert client.get("/healthz").status_code == 200  # the connection from before goes on
        if processes == "1":  # a successor that cannot start is tried in test_http_lifecycle.py
            certificate.write_text("nonsense")
            api.process.send_signal(signal.SIGHUP)
            until(lambda: any("not renewed" in line for line in api.lines))
            assert serial(url, authority) != before
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(url + "/healthz", trust_env=False)
    assert api.stop() == 0


def test_an_unfinished_handshake_does_not_delay_a_stop(stack: Stack, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("api")
    api, url = stack.start_api(
        SANDLOT_TLS_CERT=str(certificate), SANDLOT_TLS_KEY=str(key), SANDLOT_SHUTDOWN_GRACE_S="1"
    )
    parts = urlsplit(url)
    with contextlib.ExitStack() as wires:
        for hello in (b"", b"\x16\x03\x01", b"GET /healthz HTTP/1.1\r\n\r\n"):
            wire = wires.enter_context(socket.create_connection((parts.hostname, parts.port)))
            wire.sendall(hello)
        serial(url, authority)  # by now the server has seen them
        started_s = time.monotonic()
        assert api.stop() == 0
        assert time.monotonic() - started_s < 15


def test_connections_over_the_limit_are_refused_and_the_others_continue(stack: Stack) -> None:
    api, url = stack.start_api(SANDLOT_CONNECTIONS_LIMIT="3")
    parts = urlsplit(url)
    with httpx.Client(base_url=url, trust_env=False, timeout=HANG_S) as client, contextlib.ExitStack() as wires:
        assert client.get("/healthz").status_code == 200
        held = [wires.enter_context(socket.create_connection((parts.hostname, parts.port))) for _ in range(2)]
        with socket.create_connection((parts.hostname, parts.port), timeout=HANG_S) as fourth:
            answer = b""
            while chunk := fourth.recv(65536):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"too_many_connections"' in answer
        assert b"\r\nretry-after: 1\r\n" in answer
        assert client.get("/healthz").status_code == 200
        held[0].close()

        def let_in() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(url + "/healthz", trust_env=False).status_code == 200
            return False

        until(let_in)
    assert api.stop() == 0


def test_api_and_worker_do_not_start_with_unencrypted_network_connections(own: OwnStack) -> None:
    for environment, word in (
        ({"SANDLOT_HOST": "0.0.0.0"}, "--insecure"),
        ({"SANDLOT_REDIS_URL": "redis://:hunter2@10.0.0.5/0"}, "--insecure-redis"),
        ({"SANDLOT_TLS_CERT": "/nowhere"}, "both"),
    ):
        api = own.start("api", **environment)
        assert api.process.wait(30) == 2
        api.stop()
        assert len(api.lines) == 1, api.lines
        assert word in api.lines[0]
        assert "hunter2" not in api.lines[0]
    worker = own.start("worker", SANDLOT_REDIS_URL="redis://:hunter2@10.0.0.5/0")
    assert worker.process.wait(30) == 2
    worker.stop()
    assert "--insecure-redis" in worker.lines[-1]
