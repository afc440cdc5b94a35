"""A function's hosts, from its version to an answer: the pool, a cold sandbox, the proxy, and what programs make of the variables."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator

import pytest

from sandlot.models import Isolation, Runtime
from tests.sandbox.pool_rig import Rig, open_host, open_rig
from tests.sandbox.test_network import FETCH, NODE_FETCH, origin
from tests.waiting import HANG_S
from worker.sandbox.egress_proxy import EgressProxy

HOME = ipaddress.IPv4Address("127.0.0.1")


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """`service.test` counts as public though it is on loopback; `inner.test` leads where every function is kept from."""
    original = EgressProxy.__init__

    async def resolve(host: str, _port: int) -> list[ipaddress.IPv4Address]:
        return [HOME if host == "service.test" else ipaddress.IPv4Address("169.254.169.254")]

    def init(self: EgressProxy, allowed: tuple[str, ...]) -> None:
        original(self, allowed, resolve=resolve, is_reachable=lambda address: address == HOME)

    monkeypatch.setattr(EgressProxy, "__init__", init)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with open_host(node=True) as host, open_rig(host) as opened:
        yield opened


@pytest.mark.parametrize("isolation", list(Isolation))
async def test_a_named_host_is_reached_call_after_call(rig: Rig, isolation: Isolation) -> None:
    async with origin() as port:
        name = rig.write(FETCH, network=(f"service.test:{port}",), isolation=isolation)
        for path in ("a", "b"):
            answer = await rig.value(name, {"url": f"http://service.test:{port}/{path}"})
            assert answer == [200, f"GET /{path} HTTP/1.1"]


async def test_node_reaches_it_too(rig: Rig) -> None:
    async with origin() as port:
        name = rig.write(
            NODE_FETCH.replace("export const handler", "exports.handler"),
            runtime=Runtime.NODE,
            network=(f"service.test:{port}",),
        )
        answer = await rig.value(name, {"url": f"http://service.test:{port}/x"})
    if answer[0] == 0:
        pytest.skip(f"this Node's fetch does not look at proxy variables: {answer[1]}")
    assert answer == [200, "GET /x HTTP/1.1"]


async def test_unlisted_and_internal_addresses_are_refused(rig: Rig) -> None:
    name = rig.write(FETCH, network=("service.test", "inner.test"))
    status, reason = await rig.value(name, {"url": "http://other.test/"})
    assert (status, "allow list" in reason) == (403, True)
    status, reason = await rig.value(name, {"url": "http://inner.test/"})
    assert (status, "no public address" in reason) == (403, True)


async def test_https_goes_through_a_tunnel(rig: Rig) -> None:
    """The origin speaks no TLS: what arrives there is the first record of a handshake, which only a tunnel carries."""
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.put_nowait(await reader.read(3))
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        name = rig.write(FETCH, network=(f"service.test:{port}",))
        status, _reason = await rig.value(name, {"url": f"https://service.test:{port}/"})
        assert status == 0
        assert (await asyncio.wait_for(arrived.get(), HANG_S))[:2] == b"\x16\x03"


async def test_a_waiting_prewarmed_sandbox_is_not_used_for_it(rig: Rig) -> None:
    """A blank has no door in its network; one that was taken for such a function would have to be refused."""
    plain = rig.write(FETCH, name="plain")
    asking = rig.write(FETCH, name="asking", network=("service.test",))
    assert (await rig.value(plain, {"url": "http://127.0.0.1:3128/"}))[0] == 0
    assert await rig.value(asking, {"host": "127.0.0.1", "port": 3128}) == "connected"
