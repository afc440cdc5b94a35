"""The worker's side of "fork" in `runtimes/PROTOCOL.md`: a socket pair for each child of a template, beside the template's control socket.

Knows: when a child gets its pair, what ends a call. Does not know: what a frame holds, processes.

Offers what `Channel` offers. A call takes no detour: request and answer go straight to and from the child. The template hears only that a
child has served, or that it is gone; in the latter case it ends as the child did, and the end of its control socket is the end of the call.
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
"""After so long it is looked whether a request has been read: a child that waits for it reads it within a millisecond."""


class ForkChannel:
    """A template's control socket, whose owner closes it after `close`, and the pairs to its children, which are made and closed here.

    `on_failure` is called at most once, as with `Channel`.
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
            is_stopped: whether the template is stopped. A call may have done that to it: they have one uid.
        """
        self._loop = loop or asyncio.get_running_loop()
        self._control = Channel(control, self._fail, self._loop)
        self._on_failure = on_failure
        self._open = True
        self._child: Channel | None = None
        self._pair: socket.socket | None = None
        self._on_answer: OnAnswer | None = None
        self._served = False
        """The child has answered, and is left as soon as there is time."""
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
        """As `Channel.exchange`: `I` goes to the template, a request to the child that waits for it."""
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
        # The request is in the pair before the pair is on its way: the template need not be woken a second time.
        self._hand_over(template_end)
        if self._open:
            self._read_check = self._loop.call_later(READ_CHECK_AFTER_S, self._check_read)
        return self._open

    def close(self) -> None:
        """Stop watching; nothing is called any more."""
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
        """Have the next child made, if there is none ahead."""
        self._hand_over(self._make_pair())

    def _make_pair(self) -> socket.socket | None:
        """The template's end of the next child's pair; None if there is a child ahead, or after a fault.

        The child need not exist yet when it is asked: the request waits for it in its pair.
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
            self._loop.call_soon(self._request_child)  # after what the answer has set off: nobody waits for this

    def _on_child_failure(self, failure: ChannelFailure) -> None:
        if self._served:
            return  # it has answered; whatever it does now is its end
        if failure.error is ProtocolError.DEADLINE and self._is_unread():
            self._fail(ChannelFailure(ProtocolError.UNREAD, "the request was not read in time"))
            return
        if failure.error is not ProtocolError.CLOSED or self._on_answer is None:
            self._fail(failure)
            return
        # Dead, or merely without its socket: its parent waits for its end, and the call's limit for both.
        self._timer = self._loop.call_later(max(0.0, self._until_s - monotonic()), self._on_deadline)
        self._control.send_order(JUDGE)

    def _check_read(self) -> None:
        self._read_check = None
        if self._is_unread() and self._is_stopped():
            self._fail(
                ChannelFailure(ProtocolError.UNREAD, "the template is stopped, and the request has not been read")
            )

    def _is_unread(self) -> bool:
        """Whether some of the request has not been read by the other end (SIOCOUTQ, unix(7)): a function runs when all of it has been."""
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
