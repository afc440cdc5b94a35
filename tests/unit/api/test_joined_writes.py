"""What is written in one turn of the loop leaves together, in order, and nothing is lost by closing."""

import asyncio
from typing import Any

from api.joined_writes import JoinedWrites


class FakeTransport:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def writelines(self, pieces: list[bytes]) -> None:
        assert not self.closed
        self.sent.append(b"".join(pieces))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> str:
        return name


def joined() -> tuple[FakeTransport, Any]:
    transport = FakeTransport()
    return transport, JoinedWrites(transport, asyncio.get_running_loop())  # type: ignore[arg-type]


async def test_one_turn_is_one_send() -> None:
    transport, writes = joined()
    writes.write(b"head ")
    writes.write(b"body")
    assert transport.sent == []
    await asyncio.sleep(0)
    writes.write(b"next")
    await asyncio.sleep(0)
    assert transport.sent == [b"head body", b"next"]


async def test_closing_sends_what_was_written_before() -> None:
    transport, writes = joined()
    writes.write(b"last words")
    writes.close()
    await asyncio.sleep(0)
    assert (transport.sent, transport.closed) == ([b"last words"], True)


async def test_what_is_written_to_a_closed_connection_is_dropped() -> None:
    transport, writes = joined()
    transport.close()
    writes.write(b"too late")
    await asyncio.sleep(0)
    assert transport.sent == []
    assert writes.is_closing()


async def test_everything_else_is_the_transports() -> None:
    _, writes = joined()
    assert writes.get_extra_info("peername") == "peername"
