"""`isolation = "fork"`: answer every request from a fresh copy of the imported function.

Knows: one child ahead, the socket pair to it, how to end what a call leaves. Does not know: what is in a request.

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
from .frames import ERROR, READY, RESULT, TICKET_BYTES, Closed, Link

Answer = Callable[[memoryview], tuple[bytes, bytes, bytes]]

_PAUSE_MS: Final = 2

_ANSWER_TYPES: Final = frozenset({RESULT, ERROR})


class _Child:
    """A single-use copy of the template and the link to it."""

    def __init__(self, pid: int, link: Link) -> None:
        self.pid = pid
        self.link = link

    def end(self) -> int:
        """Kill and reap it; its wait status."""
        os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.link.fd)
        return status


def serve(control: Link, answer: Answer, alone: bool, prepare_child: Callable[[], None]) -> NoReturn:
    """Pass requests to children, one each, until the worker closes.

    Args:
        control: the link to the worker; no child keeps it.
        answer: called once in each child.
        alone: this is a PID namespace of our own, so everything but its PID 1 may be killed after a call.
        prepare_child: called in each child before it is needed, so that what it touches is copied by then.

    Raises:
        Closed: the worker is gone.
    """
    child: _Child | None = None

    def pass_on(_signal: int, _frame: FrameType | None) -> None:
        """The worker asks where the code is: the child knows."""
        if child is not None:
            os.kill(child.pid, signal.SIGINT)

    faulthandler.unregister(signal.SIGINT)
    signal.signal(signal.SIGINT, pass_on)
    try:
        child = _fork_child(control, answer, prepare_child)
        while True:
            kind, request = control.receive()
            child = child or _fork_child(control, answer, prepare_child)
            if child is None:
                refusal = refuse("processes", "BlockingIOError", "no process could be made for this call")
                control.send(ERROR, refusal, bytes(request[:TICKET_BYTES]))
                continue
            control.send(*_pass_through(child, kind, request))
            _let_others_run(control.fd)
            ended, child = child, None
            ended.end()
            if alone:
                _kill_leftovers()
            child = _fork_child(control, answer, prepare_child)
    finally:
        if child is not None:
            child.end()


def _fork_child(control: Link, answer: Answer, prepare_child: Callable[[], None]) -> _Child | None:
    """A child that waits for its request, or None if the process limit is reached."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        return None
    if pid == 0:
        ours.close()
        os.close(control.fd)
        # Closed and SystemExit leave through `serve` to the runner, which ends the process: no child is known there yet.
        link = Link(theirs.detach())
        prepare_child()
        link.send(READY, b"")
        _, request = link.receive()
        link.send(*answer(request))
        link.receive()  # Until the template kills it: ending takes 0.7 ms of a processor that the answer's way may need.
        os._exit(0)
    theirs.close()
    child = _Child(pid, Link(ours.detach()))
    child.link.receive()
    return child


def _pass_through(child: _Child, kind: bytes, request: memoryview) -> tuple[bytes, memoryview]:
    """The child's answer. A child that ends without one takes the template with it, the same way: the worker sees how."""
    try:
        child.link.send(kind, request)
        kind, body = child.link.receive()
    except Closed:
        _end_like(child.pid)
    if kind not in _ANSWER_TYPES:
        os._exit(1)
    return kind, body


def _let_others_run(control_fd: int) -> None:
    """Sleep until the next request, or for a moment.

    What follows an answer (the end of a child, the fork of the next: 1 to 2 ms) would otherwise keep the worker, woken on this
    processor, from reading it.
    """
    waiting = select.poll()
    waiting.register(control_fd, select.POLLIN)
    waiting.poll(_PAUSE_MS)


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
