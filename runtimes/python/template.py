"""`isolation = "fork"`: answer every request from a fresh copy of the imported function.

Knows: one child ahead, the socket the worker gives it, how to end what a call leaves. Does not know: what is in a request.

See `runtimes/PROTOCOL.md`, "fork": the child never has the control descriptor, so whoever takes a child over through its input can
answer that one request, and neither answer nor read the next.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

from .failure import refuse
from .frames import ERROR, NEXT, RESULT, TICKET_BYTES, Link

Answer = Callable[[memoryview], tuple[bytes, bytes, bytes]]

_PAUSE_MS: Final = 2


def serve(
    control: Link, answer: Answer, alone: bool, prepare_child: Callable[[], None], rehearse: Callable[[], None]
) -> NoReturn:
    """Have a child ready for each request, one each, until the worker closes.

    Args:
        control: the link to the worker; no child keeps it.
        answer: called once in each child.
        alone: this is a PID namespace of our own, so everything but its PID 1 may be killed after a call.
        prepare_child: called in each child before its request is read.
        rehearse: called in a child that has time before its request, so that what answering touches is copied by then.

    Raises:
        Closed: the worker is gone.
    """
    child = 0

    def pass_on(_signal: int, _frame: FrameType | None) -> None:
        """The worker asks where the code is: the child knows."""
        if child:
            os.kill(child, signal.SIGINT)

    faulthandler.unregister(signal.SIGINT)
    signal.signal(signal.SIGINT, pass_on)
    try:
        while True:
            order, pair = control.receive_order()
            if order != NEXT:
                _end_like(child)
            if child:
                # What follows an answer (the end of a child, the fork of the next: 1 to 2 ms) would otherwise take a processor from
                # the worker, which has that answer to bring away.
                _is_readable(pair, _PAUSE_MS)
                ended, child = child, 0
                _end(ended)
                if alone:
                    _kill_leftovers()
            child = _fork_child(control, pair, answer, prepare_child, rehearse)
            if not child and _is_asked(pair, control.fd):
                child = _fork_child(control, pair, answer, prepare_child, rehearse) or _refuse(Link(pair))
            os.close(pair)
    finally:
        if child:
            _end(child)


def _fork_child(
    control: Link, pair: int, answer: Answer, prepare_child: Callable[[], None], rehearse: Callable[[], None]
) -> int:
    """The process number of a child that waits for its request, or 0 if the process limit is reached."""
    try:
        pid = os.fork()
    except OSError:
        return 0
    if pid == 0:
        os.dup2(pair, control.fd, inheritable=False)
        os.close(pair)
        # Closed and SystemExit leave through `serve` to the runner, which ends the process: no child is known there yet.
        prepare_child()
        if not _is_readable(control.fd, 0):
            rehearse()
            _rehearse_link(control)
        _, request = control.receive()
        control.send(*answer(request))
        while True:  # Until the template kills it: ending takes 0.7 ms of a processor that the answer's way may need.
            signal.pause()
    return pid


def _rehearse_link(link: Link) -> None:
    """Send and receive a frame through a pair of our own: what that writes to is copied by then, 13 pages."""
    far, near = socket.socketpair()
    with far, near:
        kept, link.fd = link.fd, near.fileno()
        link.send(RESULT, b"0", bytes(TICKET_BYTES))
        far.send(far.recv(64))
        link.receive()
        link.fd = kept


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _is_asked(pair: int, control_fd: int) -> bool:
    """Sleep until there is a request, which is then in the pair, or something else to do."""
    waiting = select.poll()
    waiting.register(pair, select.POLLIN)
    waiting.register(control_fd, select.POLLIN)
    return any(fd == pair for fd, _ in waiting.poll())


def _refuse(link: Link) -> int:
    """Answer in place of the child that could not be made; 0."""
    _, request = link.receive()
    refusal = refuse("processes", "BlockingIOError", "no process could be made for this call")
    link.send(ERROR, refusal, bytes(request[:TICKET_BYTES]))
    return 0


def _is_readable(fd: int, patience_ms: int) -> bool:
    """Whether there is a request, or the worker's end is closed, at the latest after so long."""
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    return bool(waiting.poll(patience_ms))


def _kill_leftovers() -> None:
    """Whatever the call started and did not end; PID 1 and the caller are spared (kill(2))."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return  # The usual case: nothing was left.


def _end_like(pid: int) -> NoReturn:
    """End this process the way the child ends.

    A child that merely closed its end of the pair runs on; the wait is then ended by the worker's limit, as for any other loop.
    """
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        ending = os.WTERMSIG(status)
        signal.signal(ending, signal.SIG_DFL) if ending not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), ending)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
