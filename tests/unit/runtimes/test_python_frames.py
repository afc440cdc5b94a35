"""The Python runtime's frames: whole, in pieces, and broken off."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from runtimes.python.frames import Closed, FrameSocket, split_request


@pytest.fixture
def pair() -> Iterator[tuple[FrameSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield FrameSocket(ours.fileno()), theirs


def test_a_frame_is_a_header_and_a_body(pair: tuple[FrameSocket, socket.socket]) -> None:
    link, peer = pair
    link.send(b"O", b"abc")
    assert peer.recv(100) == b"\x00\x00\x00\x03Oabc"
    peer.sendall(b"\x00\x00\x00\x02Rxy")
    kind, body = link.receive()
    assert (kind, bytes(body)) == (b"R", b"xy")


def test_a_frame_may_come_in_pieces(pair: tuple[FrameSocket, socket.socket]) -> None:
    link, peer = pair
    frame = b"\x00\x01\x00\x00R" + bytes(65536)

    def trickle() -> None:
        for index in (*range(7), 7):
            peer.sendall(frame[index : index + 1] if index < 7 else frame[7:])

    writer = threading.Thread(target=trickle)
    writer.start()
    kind, body = link.receive()
    writer.join()
    assert (kind, len(body)) == (b"R", 65536)


@pytest.mark.parametrize("size", [65_530, 65_531, 65_532, 200_000])
def test_frames_around_the_buffers_size_arrive_whole(pair: tuple[FrameSocket, socket.socket], size: int) -> None:
    link, peer = pair
    body = os.urandom(size)
    writer = threading.Thread(target=peer.sendall, args=(size.to_bytes(4, "big") + b"R" + body,))
    writer.start()
    assert bytes(link.receive()[1]) == body
    writer.join()


@pytest.mark.parametrize("part", [b"", b"\x00\x00", b"\x00\x00\x00\x05R", b"\x00\x00\x00\x05Rab"])
def test_breaking_off_anywhere_is_closing(pair: tuple[FrameSocket, socket.socket], part: bytes) -> None:
    link, peer = pair
    peer.sendall(part)
    peer.close()
    with pytest.raises(Closed):
        link.receive()


def test_sending_to_a_closed_peer_closes(pair: tuple[FrameSocket, socket.socket]) -> None:
    link, peer = pair
    peer.close()
    with pytest.raises(Closed):
        link.send(b"O", b"x")


def test_a_request_is_ticket_context_and_event() -> None:
    ticket, context, event = split_request(memoryview(b"12345678\x00\x00\x00\x02{}[1]"))
    assert (ticket, bytes(context), bytes(event)) == (b"12345678", b"{}", b"[1]")


def test_an_answer_begins_with_the_ticket(pair: tuple[FrameSocket, socket.socket]) -> None:
    link, peer = pair
    link.send(b"O", b"[1]", b"12345678")
    assert peer.recv(100) == b"\x00\x00\x00\x0bO12345678[1]"
