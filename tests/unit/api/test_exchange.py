"""A reply leaves in one piece, and no header can change what that piece means."""

import asyncio
import functools
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from api.http.body import BODY
from api.http.cycle import REPLY
from api.server.protocol import ConnectionLimits, FastProtocol
from sandlot.settings import Settings

REQUEST = b"%b / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n%b"
PLAIN = [(b"content-type", b"text/plain"), (b"content-length", b"5")]


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Application:
    """Answers every request with the same reply, and keeps what it was asked."""

    def __init__(self, headers: list[tuple[bytes, bytes]], *pieces: bytes, status: int = 200) -> None:
        self.headers, self.pieces, self.status = headers, pieces or (b"hello",), status
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for number, piece in enumerate(self.pieces, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(self.pieces)})


async def exchange(
    application: Application, *, method: bytes = b"POST", body: bytes = b"event", more: bytes = b"", times: int = 1
) -> FakeTransport:
    make: Any = functools.partial(FastProtocol, ConnectionLimits(Settings(_env_file=None)))  # type: ignore[call-arg]
    config = uvicorn.Config(application, http=make, ws="none", lifespan="off", log_config=None)
    config.load()
    state, transport = ServerState(), FakeTransport()
    connection = make(config, state, {})
    connection.connection_made(transport)
    connection.data_received(REQUEST % (method, len(body), more, body) * times)
    while state.tasks:
        await asyncio.gather(*state.tasks)
    connection.connection_lost(ConnectionResetError())
    return transport


async def test_head_and_body_are_one_write() -> None:
    application = Application(PLAIN)
    transport = await exchange(application)
    assert transport.sent == [b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"]
    assert application.scopes[0][BODY] == b"event"
    assert not transport.closed


class AtOnce(Application):
    """The same without the messages of ASGI, as far as that can be had."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.taken = [scope[REPLY](self.status, self.headers, b"".join(self.pieces))]
        if self.taken[0]:
            self.taken.append(scope[REPLY](self.status, self.headers, b"again"))
        else:
            await super().__call__(scope, receive, send)


async def test_a_reply_at_once_is_what_the_two_messages_would_have_sent_and_there_is_one() -> None:
    application = AtOnce(PLAIN)
    transport = await exchange(application)
    assert transport.sent == (await exchange(Application(PLAIN))).sent
    assert application.taken == [True, False]


@pytest.mark.parametrize(
    ("method", "headers"),
    [(b"HEAD", PLAIN), (b"POST", [*PLAIN, (b"transfer-encoding", b"chunked")]), (b"POST", [(b"content-type", b"a/b")])],
)
async def test_unusual_replies_take_the_general_path(method: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    application = AtOnce(headers)
    transport = await exchange(application, method=method)
    assert application.taken == [False]
    assert transport.sent == (await exchange(Application(headers), method=method)).sent


async def test_a_long_body_is_not_copied_behind_its_head() -> None:
    body = b"x" * 100_000
    transport = await exchange(Application([(b"content-length", b"100000")], body))
    assert [len(piece) for piece in transport.sent] == [len(transport.sent[0]), 100_000]


async def test_pipelined_requests_are_answered_in_turn() -> None:
    transport = await exchange(Application(PLAIN), times=3)
    assert len(transport.sent) == 3


async def test_a_connection_that_closes_announces_it() -> None:
    transport = await exchange(Application(PLAIN), more=b"connection: close\r\n")
    assert b"\r\nconnection: close\r\n" in transport.sent[0]
    assert transport.closed


async def test_a_head_request_gets_no_body() -> None:
    transport = await exchange(Application(PLAIN), method=b"HEAD", body=b"")
    assert b"".join(transport.sent).endswith(b"content-length: 5\r\n\r\n")


async def test_a_stream_is_chunked() -> None:
    transport = await exchange(Application([], b"one", b"two"))
    assert b"".join(transport.sent).endswith(b"chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"x\r\ny", b"a"),
    ],
)
async def test_a_header_with_a_line_break_or_a_control_character_is_never_sent(header: tuple[bytes, bytes]) -> None:
    transport = await exchange(Application([*PLAIN, header]))
    assert header[1] not in b"".join(transport.sent)
    assert b"hello" not in b"".join(transport.sent)


@pytest.mark.parametrize("length", [b"4", b"6"])
async def test_a_wrong_length_ends_the_connection(length: bytes) -> None:
    transport = await exchange(Application([(b"content-length", length)]))
    assert transport.closed
