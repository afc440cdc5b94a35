"""The worker's channel against peers that do not keep to the protocol: each is a fault, none hurts the worker, all end in time."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from tests.waiting import HANG_S
from worker.sandbox import channel
from worker.sandbox.channel import (
    ERROR_LIMIT_BYTES,
    INIT,
    REQUEST,
    RESULT_LIMIT_BYTES,
    Channel,
    ChannelFailure,
    ProtocolError,
)

PATIENCE_S = HANG_S
"""A deadline for a hang, not a measurement."""


def frame(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">Ic", len(body), kind) + body


async def turns() -> None:
    """Let everything happen that is ready to."""
    for _ in range(10):
        await asyncio.sleep(0)


TICKET = b"8 bytes!"


def answer(kind: bytes, body: bytes) -> bytes:
    """An answer to the request that has just been sent."""
    return frame(kind, TICKET + body)


class Peer:
    """A channel, the other end of its socket, and what the channel said."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.socket.setblocking(False)
        self.ours = ours
        self.answers: list[tuple[bytes, bytes]] = []
        self.faults: list[ChannelFailure] = []
        self._news: asyncio.Queue[tuple[bytes, bytes] | ProtocolError] = asyncio.Queue()
        self.channel = Channel(ours, self._on_fault)

    def ask(self, event: bytes = b"1", timeout_s: float = PATIENCE_S, kind: bytes = REQUEST) -> bool:
        return self.channel.exchange(kind, b"head", event, timeout_s, self._on_answer)

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def read(self, count: int) -> bytes:
        got = bytearray()
        async with asyncio.timeout(PATIENCE_S):
            while len(got) < count:
                got += await asyncio.get_running_loop().sock_recv(self.socket, count - len(got))
        return bytes(got)

    async def outcome(self) -> tuple[bytes, bytes] | ProtocolError:
        """The next answer or fault."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._news.get()

    def _on_answer(self, kind: bytes, body: bytes) -> None:
        self.answers.append((kind, body))
        self._news.put_nowait((kind, body))

    def _on_fault(self, faulty: ChannelFailure) -> None:
        self.faults.append(faulty)
        self._news.put_nowait(faulty.error)


@pytest.fixture
async def peer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peer]:
    monkeypatch.setattr(channel, "next_ticket", lambda: TICKET)
    peer = Peer()
    yield peer
    peer.channel.close()
    peer.ours.close()
    peer.socket.close()


async def test_an_exchange_sends_one_frame_and_takes_one(peer: Peer) -> None:
    assert peer.ask(b'"event"')
    assert await peer.read(5 + 8 + 4 + 7) == frame(b"R", TICKET + b'head"event"')
    await peer.write(answer(b"O", b"42"))
    assert await peer.outcome() == (b"O", b"42")
    assert peer.channel.usable


async def test_exchanges_follow_one_another(peer: Peer) -> None:
    for number in range(50):
        assert peer.ask()
        await peer.read(18)
        await peer.write(answer(b"E" if number % 2 else b"O", str(number).encode()))
        assert await peer.outcome() == (b"E" if number % 2 else b"O", str(number).encode())
    assert peer.faults == []


@pytest.mark.parametrize("size", [0, 1, 65_531, 65_532, 65_536, 1_000_000, RESULT_LIMIT_BYTES])
async def test_answers_of_any_length_arrive_whole(peer: Peer, size: int) -> None:
    body = os.urandom(size)
    peer.ask()
    await peer.write(answer(b"O", body))
    assert await peer.outcome() == (b"O", body)


async def test_an_answer_may_come_byte_by_byte(peer: Peer) -> None:
    peer.ask()
    for byte in answer(b"O", b"[1,2]"):
        await peer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert await peer.outcome() == (b"O", b"[1,2]")


async def test_a_large_event_is_sent_as_the_peer_takes_it(peer: Peer) -> None:
    event = os.urandom(6 * 1024 * 1024)
    peer.ask(event)
    assert await peer.read(17 + len(event)) == frame(b"R", TICKET + b"head" + event)
    await peer.write(answer(b"O", b"1"))
    assert await peer.outcome() == (b"O", b"1")


# What is not asked for.


async def test_a_frame_before_the_request_retires_the_process_unread(peer: Peer) -> None:
    peer.socket.send(answer(b"O", b'"forged"'))
    assert not peer.ask()
    assert (peer.answers, peer.faults[0].error) == ([], ProtocolError.LATE)


async def test_a_frame_while_nothing_is_asked_is_noticed_without_asking(peer: Peer) -> None:
    await peer.write(answer(b"O", b'"forged"'))
    assert await peer.outcome() == ProtocolError.LATE


async def test_a_second_answer_in_the_same_breath_spoils_the_first(peer: Peer) -> None:
    peer.ask()
    await peer.write(answer(b"O", b"1") + answer(b"O", b"2"))
    assert await peer.outcome() == ProtocolError.GARBLED
    assert peer.answers == []


async def test_a_second_answer_after_the_first_retires_the_process(peer: Peer) -> None:
    peer.ask()
    await peer.write(answer(b"O", b"1"))
    assert await peer.outcome() == (b"O", b"1")
    peer.socket.send(answer(b"O", b"2"))
    assert not peer.ask()
    assert peer.faults[0].error == ProtocolError.LATE


async def test_an_answer_before_the_whole_request_was_taken_is_a_fault(peer: Peer) -> None:
    peer.ask(bytes(6 * 1024 * 1024))
    await peer.write(answer(b"O", b"1"))
    assert await peer.outcome() == ProtocolError.GARBLED


async def test_an_answer_to_another_request_is_a_fault(peer: Peer) -> None:
    """Found by a function that answered by hand: its real answer was taken for that of the next request."""
    peer.ask()
    await peer.write(frame(b"O", b"7 bytes." + b"1"))
    assert await peer.outcome() == ProtocolError.GARBLED
    assert peer.answers == []


@pytest.mark.parametrize("body", [b"", b"8 bytes", b'"forged"'])
async def test_an_answer_without_a_ticket_is_a_fault(peer: Peer, body: bytes) -> None:
    peer.ask()
    await peer.write(frame(b"O", body))
    assert await peer.outcome() == ProtocolError.GARBLED


def test_no_two_tickets_are_equal() -> None:
    assert len({channel.next_ticket() for _ in range(2000)}) == 2000


# What is no answer.


@pytest.mark.parametrize("kind", [b"K", b"R", b"I", b"\x00", b"\xff"])
async def test_another_type_is_a_fault(peer: Peer, kind: bytes) -> None:
    peer.ask()
    await peer.write(frame(kind, b"{}"))
    assert await peer.outcome() == ProtocolError.GARBLED


@pytest.mark.parametrize("kind", [b"O", b"E", b"R"])
async def test_only_ready_answers_init(peer: Peer, kind: bytes) -> None:
    peer.ask(kind=INIT)
    await peer.write(frame(kind, b"{}"))
    assert await peer.outcome() == ProtocolError.GARBLED


@pytest.mark.parametrize(
    ("kind", "length"),
    [(b"O", RESULT_LIMIT_BYTES + 9), (b"O", 2**32 - 1), (b"E", ERROR_LIMIT_BYTES + 9), (b"E", 2**31)],
)
async def test_a_length_above_the_limit_is_refused_before_anything_is_allocated(
    peer: Peer, kind: bytes, length: int
) -> None:
    peer.ask()
    await peer.write(struct.pack(">Ic", length, kind))
    assert await peer.outcome() == ProtocolError.GARBLED
    assert peer.channel._body is None


@pytest.mark.parametrize("part", [b"", b"\x00", b"\x00\x00\x00\x05", b"\x00\x00\x00\x05O", b"\x00\x00\x00\x05Oab"])
async def test_closing_is_a_fault_wherever_it_happens(peer: Peer, part: bytes) -> None:
    peer.ask()
    await peer.write(part)
    peer.socket.close()
    assert await peer.outcome() == ProtocolError.CLOSED


async def test_shutting_down_one_direction_is_closing(peer: Peer) -> None:
    peer.ask()
    peer.socket.shutdown(socket.SHUT_WR)
    assert await peer.outcome() == ProtocolError.CLOSED


async def test_a_peer_that_was_closed_before_takes_no_request(peer: Peer) -> None:
    peer.socket.close()
    assert not peer.ask()
    assert peer.faults[0].error == ProtocolError.CLOSED


async def test_random_bytes_are_a_fault_or_an_answer_of_their_own(peer: Peer) -> None:
    peer.ask()
    await peer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert await peer.outcome() == ProtocolError.GARBLED


# Time.


@pytest.mark.parametrize("part", [b"", b"\x00\x00", b"\x00\x00\x00\x05O", b"\x00\x00\x00\x05Oab"])
async def test_one_deadline_covers_every_part(peer: Peer, part: bytes) -> None:
    peer.ask(timeout_s=0.05)
    await peer.write(part)
    assert await peer.outcome() == ProtocolError.DEADLINE


async def test_the_deadline_of_an_exchange_before_does_not_end_this_one(peer: Peer) -> None:
    """One timer serves them all: it was set for the first, and finds the second."""
    peer.ask(timeout_s=0.02)
    await peer.read(18)
    await peer.write(answer(b"O", b"1"))
    assert await peer.outcome() == (b"O", b"1")
    peer.ask()
    await peer.read(18)
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.06, passed.set)  # timers are called in the order in which they are due
    await passed.wait()
    await peer.write(answer(b"O", b"2"))
    assert await peer.outcome() == (b"O", b"2")
    assert peer.faults == []


async def test_a_shorter_deadline_than_that_of_an_exchange_before_is_met(peer: Peer) -> None:
    peer.ask(timeout_s=1000)
    await peer.read(18)
    await peer.write(answer(b"O", b"1"))
    assert await peer.outcome() == (b"O", b"1")
    peer.ask(timeout_s=0.02)
    assert await peer.outcome() == ProtocolError.DEADLINE


async def test_a_peer_that_never_reads_meets_the_deadline(peer: Peer) -> None:
    peer.ask(bytes(6 * 1024 * 1024), timeout_s=0.05)
    assert await peer.outcome() == ProtocolError.DEADLINE


async def test_a_slow_trickle_does_not_extend_the_deadline(peer: Peer) -> None:
    peer.ask(timeout_s=0.1)
    for byte in answer(b"O", bytes(100)):
        if peer.faults:
            break
        await peer.write(bytes([byte]))
        await asyncio.sleep(0.01)
    assert await peer.outcome() == ProtocolError.DEADLINE
    assert peer.answers == []


# Descriptors.


async def test_descriptors_sent_along_are_closed_by_the_kernel(peer: Peer) -> None:
    peer.ask()
    before = len(os.listdir("/proc/self/fd"))
    read, write = os.pipe()
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read, write] * 10))]
    peer.socket.sendmsg([answer(b"O", b"1")], ancillary)
    os.close(read)
    os.close(write)
    assert await peer.outcome() == (b"O", b"1")
    assert len(os.listdir("/proc/self/fd")) == before


# The owner's side.


async def test_nothing_is_reported_after_close(peer: Peer) -> None:
    peer.ask(timeout_s=0.01)
    peer.channel.close()
    peer.channel.close()
    await peer.write(answer(b"O", b"1"))
    await turns()
    assert (peer.answers, peer.faults) == ([], [])
    assert not peer.ask()


async def test_a_protocol_error_is_reported_once(peer: Peer) -> None:
    peer.ask(timeout_s=0.01)
    await peer.write(frame(b"X", b"1") * 3)
    peer.socket.close()
    assert await peer.outcome() == ProtocolError.GARBLED
    await turns()
    assert len(peer.faults) == 1
