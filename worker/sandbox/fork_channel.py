"""The worker's side of "fork" in `runtimes/PROTOCOL.md`: a socket pair for each template's child.

It offers the interface of `Channel`. Request and answer go straight to and from the child. On its
control socket the template learns only that a child has served, or that it is gone. In the latter
case the template ends as the child did, and the end of its control socket is the end of the call.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import termios
from collections.abc import Callable
from time import monotonic
from typing import Final

from worker.sandbox.channel import (
    INIT,
    JUDGE,
    NEXT,
    TIMER_TICK_S,
    Channel,
    ChannelFailure,
    OnAnswer,
    OnFailure,
    ProtocolError,
)

READ_CHECK_AFTER_S: Final = 0.1
"""Time after which a request should have been read. A waiting child reads it within a
millisecond."""


class ForkChannel:
    """The exchanges with the children of one template.

    The caller owns the template's control socket and closes it, after `close`. The pairs to the
    children are made and closed here. `on_failure` is called at most once, as with `Channel`.
    """

    def __init__(
        self,
        control: socket.socket,
        on_failure: OnFailure,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            is_stopped: tells whether the template is stopped. A call can have stopped it, as child
                and template have one uid.
        """
        self._loop = loop or asyncio.get_running_loop()
        self._control = Channel(control, self._fail, self._loop)
        self._on_failure = on_failure
        self._open = True
        self._child: Channel | None = None
        self._pair: socket.socket | None = None
        self._on_answer: OnAnswer | None = None
        self._served = False
        """The child has answered, and is dropped as soon as there is time."""
        self._until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = is_stopped
        self._read_check: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        return (
            self._on_answer is None
            and self._control.usable
            and (self._child is None or self._served or self._child.usable)
        )

    def exchange(
        self, kind: bytes, head: bytes, tail: bytes | memoryview, timeout_s: float, on_answer: OnAnswer
    ) -> bool:
        """Send a frame as `Channel.exchange` does: `I` to the template, requests to its child."""
        if kind == INIT:
            return self._control.exchange(
                kind, head, tail, timeout_s, lambda *answer: self._on_ready(on_answer, *answer)
            )
        template_end = self._make_pair()
        child = self._child
        if child is None or not child.exchange(kind, head, tail, timeout_s, self._on_child_answer):
            return False
        self._on_answer = on_answer
        self._until_s = monotonic() + timeout_s + TIMER_TICK_S
        # The request is in the pair before the pair is sent, so the child finds it at once.
        self._hand_over(template_end)
        if self._open:
            self._read_check = self._loop.call_later(READ_CHECK_AFTER_S, self._check_read)
        return self._open

    def close(self) -> None:
        """Stop; no callback is called from now on."""
        self._open = False
        self._on_answer = None
        self._control.close()
        self._drop_child()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._cancel_read_check()

    def _on_ready(self, on_answer: OnAnswer, kind: bytes, body: bytes) -> None:
        on_answer(kind, body)
        self._request_child()

    def _request_child(self) -> None:
        """Ask the template for the next child, unless there is one ahead."""
        self._hand_over(self._make_pair())

    def _make_pair(self) -> socket.socket | None:
        """Make the next child's pair, and return the template's end of it.

        The child need not exist when a request is sent to it: the request waits in the pair.

        Returns:
            None if there is a child ahead, or if the channel is broken.
        """
        if self._served:
            self._drop_child()
        if self._child is not None or not self._open:
            return None
        try:
            self._pair, template_end = socket.socketpair()
        except OSError as error:
            self._fail(
                ChannelFailure(
                    ProtocolError.CLOSED, f"the worker has no socket pair for the next child: {error.strerror}"
                )
            )
            return None
        self._child = Channel(self._pair, self._on_child_failure, self._loop)
        return template_end

    def _hand_over(self, template_end: socket.socket | None) -> None:
        if template_end is not None:
            with template_end:
                self._control.send_order(NEXT, [template_end.fileno()])

    def _drop_child(self) -> None:
        self._served = False
        if self._child is not None:
            self._child.close()
            self._child = None
        if self._pair is not None:
            self._pair.close()
            self._pair = None

    def _on_child_answer(self, kind: bytes, body: bytes) -> None:
        on_answer, self._on_answer = self._on_answer, None
        self._served = True
        self._cancel_read_check()
        if on_answer is not None:
            on_answer(kind, body)
        if self._served:
            self._loop.call_soon(
                self._request_child
            )  # after everything that the answer sets off, as no call waits for it

    def _on_child_failure(self, failure: ChannelFailure) -> None:
        if self._served:
            return  # it has answered, and may do what it likes until it is killed
        if failure.error is ProtocolError.DEADLINE and self._is_unread():
            self._fail(ChannelFailure(ProtocolError.UNREAD, "the request was not read in time"))
            return
        if failure.error is not ProtocolError.CLOSED or self._on_answer is None:
            self._fail(failure)
            return
        # The child is dead, or has only closed its socket. The template waits for its end, and the
        # call's limit ends both.
        self._timer = self._loop.call_later(max(0.0, self._until_s - monotonic()), self._on_deadline)
        self._control.send_order(JUDGE)

    def _check_read(self) -> None:
        self._read_check = None
        if self._is_unread() and self._is_stopped():
            self._fail(
                ChannelFailure(ProtocolError.UNREAD, "the template is stopped, and the request has not been read")
            )

    def _is_unread(self) -> bool:
        """Return whether the child has not read all of the request; a function runs when it has.

        SIOCOUTQ of unix(7), which is TIOCOUTQ: the bytes that the other end has not read.
        """
        if self._pair is None:
            return False
        return fcntl.ioctl(self._pair, termios.TIOCOUTQ, bytes(4)) != bytes(4)

    def _cancel_read_check(self) -> None:
        if self._read_check is not None:
            self._read_check.cancel()
            self._read_check = None

    def _on_deadline(self) -> None:
        self._timer = None
        self._fail(ChannelFailure(ProtocolError.DEADLINE, "no answer in time"))

    def _fail(self, failure: ChannelFailure) -> None:
        if self._open:
            self.close()
            self._on_failure(failure)
