"""The worker's end of the control socket of `runtimes/PROTOCOL.md`: frames to and from a runtime.

The process at the other end runs a user's code and is not trusted. A channel is broken for good by
anything readable before a request, by a frame that is too long, of another type or a second one,
and by the deadline; its owner then has to end the process. Callbacks, not tasks: an exchange costs
two system calls and one wake-up.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Final

from sandlot.random_pool import RandomPool

INIT: Final = b"I"
READY: Final = b"K"
REQUEST: Final = b"R"
RESULT: Final = b"O"
ERROR: Final = b"E"
NEXT: Final = b"N"
JUDGE: Final = b"J"

RESULT_LIMIT_BYTES: Final = 6 * 1024 * 1024
ERROR_LIMIT_BYTES: Final = 256 * 1024

TICKET_BYTES: Final = 8
_LIMIT_BYTES: Final = {
    READY: ERROR_LIMIT_BYTES,
    RESULT: RESULT_LIMIT_BYTES + TICKET_BYTES,
    ERROR: ERROR_LIMIT_BYTES + TICKET_BYTES,
}

_HEADER: Final = struct.Struct(">Ic")
_HEADER_BYTES: Final = 5
_ANSWERS_TO: Final = {INIT: READY, REQUEST: RESULT + ERROR}

_SCRATCH_BYTES: Final = 64 * 1024
# One buffer for all channels of the process: one callback of one thread fills and empties it.
_scratch: Final = bytearray(_SCRATCH_BYTES)
_scratch_view: Final = memoryview(_scratch)

TIMER_TICK_S: Final = 0.002
"""uvloop's timers tick in milliseconds and may fire one early. A deadline may be late, never
early."""

_SEND_BUFFER_BYTES: Final = 1024 * 1024
"""A request to the kernel, which gives at most net.core.wmem_max (socket(7)). A larger buffer means
fewer wake-ups for a large event."""


next_ticket: Final = RandomPool(TICKET_BYTES).next
"""Returns random bytes that the answer has to repeat."""


class ProtocolError(StrEnum):
    """The reason why a channel is broken."""

    CLOSED = "closed"
    DEADLINE = "deadline"
    LATE = "late"
    GARBLED = "garbled"
    UNREAD = "unread"
    """The request was not read to its end, and will not be: the function has not run."""


@dataclass(frozen=True, slots=True)
class ChannelFailure:
    """The end of a channel: its reason, and a sentence for people."""

    error: ProtocolError
    detail: str


OnAnswer = Callable[[bytes, bytes], None]
"""Takes the frame's type and body. Called at most once per exchange, and never after
`OnFailure`."""
OnFailure = Callable[[ChannelFailure], None]


class Channel:
    """The exchanges over one process's control socket, one at a time.

    The caller owns `control` and closes it, after `close`. `on_failure` is called at most once in
    the channel's life, also while no request is in flight.
    """

    def __init__(
        self, control: socket.socket, on_failure: OnFailure, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        # Not settimeout: Python polls a socket with a timeout before each call, even with
        # MSG_DONTWAIT.
        control.setblocking(False)
        control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._control = control
        self._fd = control.fileno()
        self._on_failure = on_failure
        self._loop = loop or asyncio.get_running_loop()
        self._open = True
        self._on_answer: OnAnswer | None = None
        self._expected = b""
        self._ticket = b""
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_s = 0.0
        self._due_s = 0.0
        self._unsent: memoryview | None = None
        self._unsent_next: bytes | memoryview = b""
        self._header = b""
        self._kind = b""
        self._body: memoryview | None = None
        self._filled = 0
        self._loop.add_reader(self._fd, self._on_readable)

    @property
    def usable(self) -> bool:
        return self._open and self._on_answer is None

    def exchange(
        self, kind: bytes, head: bytes, tail: bytes | memoryview, timeout_s: float, on_answer: OnAnswer
    ) -> bool:
        """Send one frame, and call `on_answer` with the frame that answers it.

        Args:
            head, tail: the body together, after the ticket of a request.
            timeout_s: one deadline for sending, waiting and receiving.

        Returns:
            False if the channel broke: something was readable before it was asked for, or the
            process is gone. Then `on_failure` has been called, and `on_answer` will not be.
        """
        if not self._is_silent():
            return False
        self._on_answer = on_answer
        self._expected = _ANSWERS_TO[kind]
        self._arm(timeout_s + TIMER_TICK_S)
        ticket = self._ticket = next_ticket() if kind == REQUEST else b""
        header = _HEADER.pack(len(ticket) + len(head) + len(tail), kind)
        if len(tail) <= _SCRATCH_BYTES:
            self._send(b"".join((header, ticket, head, tail)), b"")
        else:
            self._send(b"".join((header, ticket, head)), tail)
        return self._open

    def send_order(self, kind: bytes, descriptors: Sequence[int] = ()) -> bool:
        """Send a frame without body and answer, with copies of these descriptors.

        Returns:
            False if it could not be sent. Then `on_failure` has been called.
        """
        if not self._open:
            return False
        try:
            socket.send_fds(self._control, [_HEADER.pack(0, kind)], descriptors)
        except OSError as error:  # also EAGAIN, when the buffer is full of orders that were not read
            self._fail(ProtocolError.CLOSED, f"the process took no order: {error.strerror}")
        return self._open

    def close(self) -> None:
        """Stop; no callback is called from now on."""
        if not self._open:
            return
        self._open = False
        self._on_answer = None
        self._stop_timer()
        self._loop.remove_reader(self._fd)
        if self._unsent is not None:
            self._unsent = None
            self._loop.remove_writer(self._fd)

    # Sending.

    def _is_silent(self) -> bool:
        """Return whether nothing can be read; break the channel otherwise.

        A frame that is readable before the request is sent answers nothing
        (`runtimes/PROTOCOL.md`).
        """
        if not self._open:
            return False
        try:
            waiting = self._control.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError as error:
            self._fail(ProtocolError.CLOSED, f"the control socket failed: {error.strerror}")
            return False
        if waiting:
            self._fail(ProtocolError.LATE, "the process had written before it was asked")
        else:
            self._fail(ProtocolError.CLOSED, "the process closed its control descriptor")
        return False

    def _send(self, first: bytes, then: bytes | memoryview) -> None:
        try:
            sent = self._control.send(first)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail(ProtocolError.CLOSED, f"the process took no request: {error.strerror}")
            return
        if sent == len(first) and not then:
            return
        self._unsent = memoryview(first)[sent:]
        self._unsent_next = then
        self._loop.add_writer(self._fd, self._on_writable)
        self._on_writable()

    def _on_writable(self) -> None:
        unsent = self._unsent
        while unsent is not None:
            if not len(unsent):
                unsent = self._unsent = memoryview(self._unsent_next) if self._unsent_next else None
                self._unsent_next = b""
                continue
            try:
                sent = self._control.send(unsent)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(ProtocolError.CLOSED, f"the process took no request: {error.strerror}")
                return
            unsent = self._unsent = unsent[sent:]
        self._loop.remove_writer(self._fd)

    # Receiving.

    def _on_readable(self) -> None:
        try:
            # recv(2) has no control buffer, so the kernel closes descriptors that were sent along
            # (unix(7), SCM_RIGHTS).
            if self._body is not None:
                self._on_body(self._control.recv_into(self._body[self._filled :]))
            else:
                self._on_start(self._control.recv_into(_scratch))
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(ProtocolError.CLOSED, f"the control socket failed: {error.strerror}")

    def _on_start(self, got: int) -> None:
        """Take the beginning of a frame, usually all of it, from the scratch buffer."""
        if got == 0:
            self._fail(ProtocolError.CLOSED, "the process closed its control descriptor")
            return
        if self._on_answer is None:
            self._fail(ProtocolError.LATE, f"the process wrote {got} bytes that were not asked for")
            return
        received: bytes | bytearray = _scratch
        if self._header or got < _HEADER_BYTES:
            received = self._header + _scratch[:got]
            got = len(received)
            if got < _HEADER_BYTES:
                self._header = bytes(received)
                return
            self._header = b""
        length, kind = _HEADER.unpack_from(received)
        if kind not in self._expected:
            self._fail(
                ProtocolError.GARBLED, f"the process sent a frame of type {kind!r}, not one of {self._expected!r}"
            )
        elif length > _LIMIT_BYTES[kind]:
            self._fail(
                ProtocolError.GARBLED, f"the process announced {length} bytes; at most {_LIMIT_BYTES[kind]} are taken"
            )
        elif got - _HEADER_BYTES > length:
            self._fail(ProtocolError.GARBLED, "the process sent more than one answer")
        elif got - _HEADER_BYTES == length:
            self._finish(kind, memoryview(received)[_HEADER_BYTES:got])
        else:
            self._kind = kind
            self._body = memoryview(bytearray(length))
            self._filled = got - _HEADER_BYTES
            self._body[: self._filled] = memoryview(received)[_HEADER_BYTES:got]

    def _on_body(self, got: int) -> None:
        if got == 0:
            self._fail(ProtocolError.CLOSED, "the process closed its control descriptor in the middle of an answer")
            return
        self._filled += got
        body = self._body
        if body is not None and self._filled == len(body):
            self._body = None
            self._finish(self._kind, body)

    def _finish(self, kind: bytes, body: memoryview) -> None:
        on_answer = self._on_answer
        self._on_answer = None
        ticket = self._ticket
        if self._unsent is not None:
            self._fail(ProtocolError.GARBLED, "the process answered before it had taken the whole request")
        elif body[: len(ticket)] != ticket:
            self._fail(ProtocolError.GARBLED, "the process answered another request than this one")
        elif on_answer is not None:
            on_answer(kind, bytes(body[len(ticket) :]))

    def _arm(self, timeout_s: float) -> None:
        """Set the deadline, and a timer that fires no later.

        A timer that is already set and due earlier is kept, and sets the next one when it fires: a
        new timer for each exchange costs 2 µs.
        """
        self._deadline_s = monotonic() + timeout_s
        if self._timer is not None:
            if self._due_s <= self._deadline_s:
                return
            self._timer.cancel()
        self._due_s = self._deadline_s
        self._timer = self._loop.call_later(timeout_s, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._on_answer is None:
            return
        left_s = self._deadline_s - monotonic()
        if left_s > 0:
            self._due_s = self._deadline_s
            self._timer = self._loop.call_later(max(left_s, 0.001), self._check_deadline)
        else:
            self._fail(ProtocolError.DEADLINE, "no answer in time")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, error: ProtocolError, detail: str) -> None:
        if self._open:
            self.close()
            self._on_failure(ChannelFailure(error, detail))
