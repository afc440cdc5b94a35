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

from worker.sandbox.channel import INIT, JUDGE, NEXT, TIMER_TICK_S, Answered, Broken, Channel, Faulty, ProtocolError

HEARD_WITHIN_S: Final = 0.1
"""After so long it is looked whether a request has been read: a child that waits for it reads it within a millisecond."""


class ForkChannel:
    """A template's control socket, whose owner closes it after `close`, and the pairs to its children, which are made and closed here.

    `on_fault` is called at most once, as with `Channel`.
    """

    def __init__(
        self,
        control: socket.socket,
        on_fault: Broken,
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
        self._on_fault = on_fault
        self._open = True
        self._child: Channel | None = None
        self._pair: socket.socket | None = None
        self._answered: Answered | None = None
        self._served = False
        """The child has answered, and is left as soon as there is time."""
        self._until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = is_stopped
        self._look: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        return (
            self._answered is None
            and self._control.usable
            and (self._child is None or self._served or self._child.usable)
        )

    def exchange(
        self, kind: bytes, head: bytes, tail: bytes | memoryview, timeout_s: float, answered: Answered
    ) -> bool:
        """As `Channel.exchange`: `I` goes to the template, a request to the child that waits for it."""
        if kind == INIT:
            return self._control.exchange(kind, head, tail, timeout_s, lambda *answer: self._loaded(answered, *answer))
        theirs = self._make_pair()
        child = self._child
        if child is None or not child.exchange(kind, head, tail, timeout_s, self._child_answered):
            return False
        self._answered = answered
        self._until_s = monotonic() + timeout_s + TIMER_TICK_S
        # The request is in the pair before the pair is on its way: the template need not be woken a second time.
        self._hand_over(theirs)
        if self._open:
            self._look = self._loop.call_later(HEARD_WITHIN_S, self._look_whether_heard)
        return self._open

    def close(self) -> None:
        """Stop watching; nothing is called any more."""
        self._open = False
        self._answered = None
        self._control.close()
        self._leave_child()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stop_looking()

    def _loaded(self, answered: Answered, kind: bytes, body: bytes) -> None:
        answered(kind, body)
        self._prepare()

    def _prepare(self) -> None:
        """Have the next child made, if there is none ahead."""
        self._hand_over(self._make_pair())

    def _make_pair(self) -> socket.socket | None:
        """The template's end of the next child's pair; None if there is a child ahead, or after a fault.

        The child need not exist yet when it is asked: the request waits for it in its pair.
        """
        if self._served:
            self._leave_child()
        if self._child is not None or not self._open:
            return None
        try:
            self._pair, theirs = socket.socketpair()
        except OSError as error:
            self._fail(
                Faulty(ProtocolError.CLOSED, f"the worker has no socket pair for the next child: {error.strerror}")
            )
            return None
        self._child = Channel(self._pair, self._child_failed, self._loop)
        return theirs

    def _hand_over(self, theirs: socket.socket | None) -> None:
        if theirs is not None:
            with theirs:
                self._control.tell(NEXT, [theirs.fileno()])

    def _leave_child(self) -> None:
        self._served = False
        if self._child is not None:
            self._child.close()
            self._child = None
        if self._pair is not None:
            self._pair.close()
            self._pair = None

    def _child_answered(self, kind: bytes, body: bytes) -> None:
        answered, self._answered = self._answered, None
        self._served = True
        self._stop_looking()
        if answered is not None:
            answered(kind, body)
        if self._served:
            self._loop.call_soon(self._prepare)  # after what the answer has set off: nobody waits for this

    def _child_failed(self, faulty: Faulty) -> None:
        if self._served:
            return  # it has answered; whatever it does now is its end
        if faulty.fault is ProtocolError.DEADLINE and self._is_unread():
            self._fail(Faulty(ProtocolError.UNHEARD, "the request was not read in time"))
            return
        if faulty.fault is not ProtocolError.CLOSED or self._answered is None:
            self._fail(faulty)
            return
        # Dead, or merely without its socket: its parent waits for its end, and the call's limit for both.
        self._timer = self._loop.call_later(max(0.0, self._until_s - monotonic()), self._too_late)
        self._control.tell(JUDGE)

    def _look_whether_heard(self) -> None:
        self._look = None
        if self._is_unread() and self._is_stopped():
            self._fail(Faulty(ProtocolError.UNHEARD, "the template is stopped, and the request has not been read"))

    def _is_unread(self) -> bool:
        """Whether some of the request has not been read by the other end (SIOCOUTQ, unix(7)): a function runs when all of it has been."""
        if self._pair is None:
            return False
        return fcntl.ioctl(self._pair, termios.TIOCOUTQ, bytes(4)) != bytes(4)

    def _stop_looking(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _too_late(self) -> None:
        self._timer = None
        self._fail(Faulty(ProtocolError.DEADLINE, "no answer in time"))

    def _fail(self, faulty: Faulty) -> None:
        if self._open:
            self.close()
            self._on_fault(faulty)
