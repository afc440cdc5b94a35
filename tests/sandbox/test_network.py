"""A function reaches the hosts it named, through the proxy, and nothing else: not Redis, not the API, not metadata."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sandlot.errors import IsolationMissing
from sandlot.network_policy import AllowList, is_public
from tests.sandbox.level_rig import bundle, open_level
from worker.sandbox.egress_proxy import EgressProxy
from worker.sandbox.host import SandboxHost
from worker.sandbox.selftest.trial import try_in
from worker.sandbox.spec import SandboxSpec

FETCH = """
import socket, urllib.error, urllib.request
def handler(event, context):
    if "url" in event:
        try:
            with urllib.request.urlopen(event["url"], timeout=60) as answer:
                return [answer.status, answer.read().decode()]
        except urllib.error.HTTPError as error:
            return [error.code, error.read().decode()]
        except OSError as error:
            return [0, str(error)]
    with socket.socket(event.get("family", socket.AF_INET), event.get("kind", socket.SOCK_STREAM)) as sock:
        sock.settimeout(5)
        try:
            if event.get("kind") == socket.SOCK_DGRAM:
                sock.sendto(b"x", (event["host"], event["port"]))
                return "sent"
            sock.connect((event["host"], event["port"]))
            if "say" in event:
                sock.sendall(event["say"].encode())
                return sock.recv(4096).decode()
            return "connected"
        except OSError as error:
            return "refused: " + str(error)
"""
NODE_FETCH = "export const handler = async (event) => { try { const r = await fetch(event.url); return [r.status, await r.text()]; } catch (e) { return [0, String(e.cause ?? e)]; } };"


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "168.63.129.16", "192.0.2.1", "::1", "::", "fe80::1", "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
        "2002:7f00:1::", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "ff02::1",
    ],
)  # fmt: skip
def test_internal_addresses_are_never_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_public_addresses_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("entry", "host", "port", "permitted"),
    [
        ("example.com", "example.com", 443, True),
        ("example.com", "EXAMPLE.com.", 80, True),
        ("example.com", "example.com", 6379, False),
        ("example.com", "evil-example.com", 443, False),
        ("example.com", "example.com.evil.org", 443, False),
        ("example.com", "a.example.com", 443, False),
        ("*.example.com", "a.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("example.com:8443", "example.com", 8443, True),
        ("example.com:8443", "example.com", 443, False),
    ],
)
def test_the_allow_list_admits_exactly_its_entries(entry: str, host: str, port: int, permitted: bool) -> None:
    assert AllowList((entry,)).permits(host, port) is permitted


@contextlib.asynccontextmanager
async def origin() -> AsyncIterator[int]:
    """A web server on the host's loopback device, as Redis and the API are."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):  # some only connect
            head = await reader.readuntil(b"\r\n\r\n")
            body = head.split(b"\r\n")[0]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
            await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def host() -> AsyncIterator[SandboxHost]:
    async with open_level("strict", node=True) as opened:
        yield opened


async def call(host: SandboxHost, folder: Path, event: object, *network: str, runtime: str = "python") -> Any:
    sandbox = await host.prewarm(runtime, SandboxSpec(network=network))
    source, name = (FETCH, "main.py") if runtime == "python" else (NODE_FETCH, "index.mjs")
    try:
        await sandbox.attach(bundle(folder, source, name), SandboxSpec(network=network))
        trial = await try_in(sandbox, event, limit_s=20)
        assert trial.kind == "result", trial
        assert trial.receipt["network"] == list(network)
        return trial.answer
    finally:
        sandbox.close()


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sends anything beyond loopback, so here `service.test` lives on it and counts as public."""

    async def resolve(host: str, _port: int) -> list[ipaddress.IPv4Address]:
        if host != "service.test":
            raise socket.gaierror(-2, "Name or service not known")
        return [ipaddress.IPv4Address("127.0.0.1")]

    original = EgressProxy.__init__

    def init(self: EgressProxy, allowed: tuple[str, ...]) -> None:
        original(self, allowed, resolve=resolve, is_reachable=lambda _address: True)

    monkeypatch.setattr(EgressProxy, "__init__", init)


@pytest.mark.usefixtures("loopback_is_public")
async def test_named_host_is_reached(host: SandboxHost, tmp_path: Path) -> None:
    async with origin() as port:
        answer = await call(host, tmp_path, {"url": f"http://service.test:{port}/a?b=1"}, f"service.test:{port}")
    assert answer == [200, "GET /a?b=1 HTTP/1.1"]


@pytest.mark.usefixtures("loopback_is_public")
async def test_named_host_is_reached_from_node(host: SandboxHost, tmp_path: Path) -> None:
    async with origin() as port:
        answer = await call(
            host, tmp_path, {"url": f"http://service.test:{port}/x"}, f"service.test:{port}", runtime="node"
        )
    if answer[0] == 0:
        pytest.skip(f"this Node's fetch does not look at proxy variables: {answer[1]}")
    assert answer == [200, "GET /x HTTP/1.1"]


@pytest.mark.usefixtures("loopback_is_public")
async def test_tunnel_is_a_tunnel(host: SandboxHost, tmp_path: Path) -> None:
    async with origin() as port:
        say = f"CONNECT service.test:{port} HTTP/1.1\r\n\r\n"
        answer = await call(host, tmp_path, {"host": "127.0.0.1", "port": 3128, "say": say}, f"service.test:{port}")
    assert answer.startswith("HTTP/1.1 200")


@pytest.mark.usefixtures("loopback_is_public")
async def test_other_names_are_refused(host: SandboxHost, tmp_path: Path) -> None:
    status, text = await call(host, tmp_path, {"url": "http://other.test/"}, "service.test")
    assert (status, "allow list" in text) == (403, True)


@pytest.mark.parametrize(
    "name", ["localhost", "127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "10.0.0.1"]
)
async def test_internal_addresses_are_refused_even_when_named(host: SandboxHost, tmp_path: Path, name: str) -> None:
    async with origin() as port:
        status, text = await call(host, tmp_path, {"url": f"http://{name}:{port}/"}, f"{name}:{port}")
    assert status == 403, text


@pytest.mark.parametrize(
    "event",
    [
        {"host": "127.0.0.1"},
        {"host": "0.0.0.0"},
        {"host": "::1", "family": int(socket.AF_INET6)},
        {"host": "169.254.169.254"},
        {"host": "10.0.0.1"},
    ],
)
async def test_nothing_is_reached_past_the_proxy(host: SandboxHost, tmp_path: Path, event: dict[str, Any]) -> None:
    async with origin() as port:
        answer = await call(host, tmp_path, event | {"port": port}, "example.com")
    assert answer.startswith("refused")


async def test_udp_goes_nowhere(host: SandboxHost, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        await call(
            host,
            tmp_path,
            {"host": "127.0.0.1", "port": receiver.getsockname()[1], "kind": int(socket.SOCK_DGRAM)},
            "example.com",
        )
        with pytest.raises(BlockingIOError):
            receiver.recv(1)


@pytest.mark.parametrize(
    "say",
    [
        "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "CONNECT example.com HTTP/1.1\r\n\r\n",
        "CONNECT user@example.com:443 HTTP/1.1\r\n\r\n",
        "CONNECT example.com:99999 HTTP/1.1\r\n\r\n",
        "nonsense\r\n\r\n",
    ],
)
async def test_malformed_requests_get_a_400(host: SandboxHost, tmp_path: Path, say: str) -> None:
    answer = await call(host, tmp_path, {"host": "127.0.0.1", "port": 3128, "say": say}, "example.com")
    assert answer.startswith("HTTP/1.1 400")


async def test_no_network_by_default(host: SandboxHost, tmp_path: Path) -> None:
    sandbox = await host.prewarm("python")
    await sandbox.attach(bundle(tmp_path, FETCH))
    trial = await try_in(sandbox, {"url": "http://example.com/"})
    assert trial.answer[0] == 0
    assert json.loads(sandbox.receipt)["network"] == "none"


@pytest.mark.slow
async def test_restricted_refuses_functions_with_network() -> None:
    async with open_level("restricted") as host:
        with pytest.raises(IsolationMissing, match="need strict"):
            await host.prewarm("python", SandboxSpec(network=("example.com",)))
