"""The worker's sockets to a template and its children, against either of them not keeping to the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from tests.waiting import HANG_S
from worker.sandbox import channel
from worker.sandbox.channel import INIT, REQUEST, ChannelFailure, ProtocolError
from worker.sandbox.fork_channel import ForkChannel

PATIENCE_S = HANG_S
"""A deadline for a hang, not a measurement."""
TICKET = b"8 bytes!"
ASKED = 5 + 8 + 4 + 1
"""Bytes of the frame that `ask` sends."""


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">Ic", len(body), kind) + body


NEXT = frame(b"N")
JUDGE = frame(b"J")
ANSWER = frame(b"O", TICKET + b"42")


class Template:
    """A fork channel, the template's end of its control socket, and what the channel said."""

    def __init__(self) -> None:
        self.ours, self.control = socket.socketpair()
        self.control.setblocking(False)
        self.news: asyncio.Queue[tuple[bytes, bytes] | ProtocolError] = asyncio.Queue()
        self.faults: list[ChannelFailure] = []
        self.children: list[socket.socket] = []
        self.stopped = False
        self.channel = ForkChannel(self.ours, self._on_fault, is_stopped=lambda: self.stopped)

    def ask(self, timeout_s: float = PATIENCE_S) -> bool:
        return self.channel.exchange(REQUEST, b"head", b"1", timeout_s, self._on_answer)

    async def child(self) -> socket.socket:
        """The next child's socket, as it arrives with `N`."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(BlockingIOError):
                    order, descriptors, _, _ = socket.recv_fds(self.control, len(NEXT), 2)
                    break
                await asyncio.sleep(0)
        assert order == NEXT
        (descriptor,) = descriptors
        child = socket.socket(fileno=descriptor)
        child.setblocking(False)
        self.children.append(child)
        return child

    async def read(self, sock: socket.socket, count: int) -> bytes:
        got = bytearray()
        async with asyncio.timeout(PATIENCE_S):
            while len(got) < count:
                got += await asyncio.get_running_loop().sock_recv(sock, count - len(got))
        return bytes(got)

    async def outcome(self) -> tuple[bytes, bytes] | ProtocolError:
        """The next answer or fault."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.news.get()

    def _on_answer(self, kind: bytes, body: bytes) -> None:
        self.news.put_nowait((kind, body))

    def _on_fault(self, faulty: ChannelFailure) -> None:
        self.faults.append(faulty)
        self.news.put_nowait(faulty.error)


@pytest.fixture
async def template(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Template]:
    """Loaded, with nobody asked yet."""
    monkeypatch.setattr(channel, "next_ticket", lambda: TICKET)
    template = Template()
    assert template.channel.exchange(INIT, b"{}", b"", PATIENCE_S, template._on_answer)
    assert await template.read(template.control, 7) == frame(b"I", b"{}")
    template.control.send(frame(b"K", b"{}"))
    assert await template.outcome() == (b"K", b"{}")
    yield template
    template.channel.close()
    for sock in (template.ours, template.control, *template.children):
        sock.close()


async def test_every_request_goes_to_a_socket_of_its_own(template: Template) -> None:
    for _ in range(5):
        child = await template.child()
        assert template.ask()
        assert not template.channel.usable
        assert await template.read(child, ASKED) == frame(b"R", TICKET + b"head1")
        child.send(ANSWER)
        assert await template.outcome() == (b"O", b"42")
        assert template.channel.usable
    assert template.faults == []


async def test_a_request_need_not_wait_for_the_child(template: Template) -> None:
    assert template.ask()
    child = await template.child()
    assert await template.read(child, ASKED) == frame(b"R", TICKET + b"head1")


async def test_the_next_request_may_follow_in_the_callback_of_the_answer(template: Template) -> None:
    """As a pool does that has another invocation waiting."""
    asked: list[bool] = []

    def again(_kind: bytes, _body: bytes) -> None:
        asked.append(template.ask())

    assert template.channel.exchange(REQUEST, b"head", b"1", PATIENCE_S, again)
    first = await template.child()
    await template.read(first, ASKED)
    first.send(ANSWER)
    second = await template.child()
    assert await template.read(second, ASKED) == frame(b"R", TICKET + b"head1")
    second.send(ANSWER)
    assert await template.outcome() == (b"O", b"42")
    assert asked == [True]


@pytest.mark.parametrize("more", [b"", b"more"])
async def test_a_child_changes_nothing_after_its_answer(template: Template, more: bytes) -> None:
    child = await template.child()
    template.ask()
    await template.read(child, ASKED)
    child.send(ANSWER)
    assert await template.outcome() == (b"O", b"42")
    with contextlib.suppress(BrokenPipeError):
        child.send(more)
    child = await template.child()
    assert template.ask()
    await template.read(child, ASKED)
    child.send(ANSWER)
    assert await template.outcome() == (b"O", b"42")
    assert template.faults == []


async def test_the_end_of_the_template_ends_a_run_whose_child_is_gone(template: Template) -> None:
    child = await template.child()
    template.ask()
    await template.read(child, ASKED)
    child.close()
    assert await template.read(template.control, len(JUDGE)) == JUDGE
    assert template.faults == []
    template.control.close()
    assert await template.outcome() == ProtocolError.CLOSED
    assert not template.channel.usable


async def test_a_child_without_a_socket_that_runs_on_has_until_the_deadline(template: Template) -> None:
    child = await template.child()
    template.ask(timeout_s=0.05)
    child.close()
    assert await template.outcome() == ProtocolError.DEADLINE
    assert len(template.faults) == 1


async def test_a_silent_child_has_until_the_deadline(template: Template) -> None:
    child = await template.child()
    template.ask(timeout_s=0.05)
    await template.read(child, ASKED)
    assert await template.outcome() == ProtocolError.DEADLINE


async def test_a_request_that_was_not_read_by_then_is_unheard(template: Template) -> None:
    await template.child()
    template.ask(timeout_s=0.05)
    assert await template.outcome() == ProtocolError.UNREAD


async def test_a_request_that_was_not_read_is_unheard_at_once_if_the_template_is_stopped(template: Template) -> None:
    await template.child()
    template.stopped = True
    assert template.ask()
    assert await template.outcome() == ProtocolError.UNREAD
    assert not template.channel.usable


@pytest.mark.slow
async def test_a_request_that_was_read_is_heard_whatever_becomes_of_the_template(template: Template) -> None:
    child = await template.child()
    template.stopped = True
    template.ask(timeout_s=0.3)
    await template.read(child, ASKED)
    assert await template.outcome() == ProtocolError.DEADLINE


async def test_a_child_that_is_gone_before_it_is_asked_takes_no_request(template: Template) -> None:
    (await template.child()).close()
    assert await template.outcome() == ProtocolError.CLOSED
    assert not template.ask()


@pytest.mark.parametrize("written", [frame(b"X", TICKET), struct.pack(">Ic", 0xFFFFFFFF, b"O"), ANSWER * 2])
async def test_a_child_that_writes_anything_else_is_faulty_at_once(template: Template, written: bytes) -> None:
    child = await template.child()
    template.ask()
    await template.read(child, ASKED)
    child.send(written)
    assert await template.outcome() == ProtocolError.GARBLED


async def test_an_answer_before_the_request_is_ignored(template: Template) -> None:
    child = await template.child()
    child.send(ANSWER)
    assert await template.outcome() == ProtocolError.LATE
    assert not template.ask()


async def test_a_template_that_dies_ends_the_call(template: Template) -> None:
    await template.child()
    template.ask()
    template.control.close()
    assert await template.outcome() == ProtocolError.CLOSED


async def test_a_template_that_writes_is_faulty(template: Template) -> None:
    await template.child()
    template.ask()
    template.control.send(ANSWER)
    assert await template.outcome() == ProtocolError.LATE


async def test_descriptors_sent_by_a_child_do_not_arrive(template: Template) -> None:
    child = await template.child()
    template.ask()
    await template.read(child, ASKED)
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(child, [ANSWER[:7]], [0])
    child.send(ANSWER[7:])
    assert await template.outcome() == (b"O", b"42")
    await template.child()
    child.close()  # Of the first pair neither end is left, of the next there are both.
    assert len(os.listdir("/proc/self/fd")) == before


async def test_close_gives_every_descriptor_back_but_the_owners(template: Template) -> None:
    before = len(os.listdir("/proc/self/fd"))  # with the first pair's one end
    template.ask()
    template.channel.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert (await template.child()).recv(ASKED) == frame(b"R", TICKET + b"head1")
    assert template.faults == []
