"""`isolation = "fork"`: answer every request from a fresh copy of the imported function.

The process that imported the function is the template. It keeps one child ready, which answers one
request. A child never has the control descriptor. So an input that takes over a child can forge the
answer to that one request, but can neither answer nor read the next one (`runtimes/PROTOCOL.md`,
"fork").
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
from .frames import ERROR, NEXT, RESULT, TICKET_BYTES, FrameSocket

AnswerRequest = Callable[[memoryview], tuple[bytes, bytes, bytes]]
"""From the body of a request to type, body and ticket of its answer."""

_PAUSE_MS: Final = 2


def serve(
    control: FrameSocket,
    answer: AnswerRequest,
    alone: bool,
    prepare_child: Callable[[], None],
    warm_up: Callable[[], None],
) -> NoReturn:
    """Keep a child ready for each request until the worker closes the control socket.

    Args:
        control: the socket to the worker; no child keeps it.
        answer: called once in each child.
        alone: the sandbox is a PID namespace, so every process but its PID 1 and this one may be
            killed after a call.
        prepare_child: called in each child before its request is read.
        warm_up: called in a child whose request has not arrived yet, to copy the memory pages that
            answering writes to.

    Raises:
        Closed: the worker closed the control socket.
    """
    child = 0

    def pass_on(_signal: int, _frame: FrameType | None) -> None:
        """Pass the worker's request for a stack on to the child, which runs the user's code."""
        if child:
            os.kill(child, signal.SIGINT)

    faulthandler.unregister(signal.SIGINT)
    signal.signal(signal.SIGINT, pass_on)
    try:
        while True:
            command, pair = control.receive_command()
            if command != NEXT:
                _end_like(child)
            if child:
                # Ending a child and forking the next takes 1 to 2 ms. Right after an answer that
                # would take a CPU from the worker, which has to deliver the answer.
                _is_readable(pair, _PAUSE_MS)
                ended, child = child, 0
                _kill_and_wait(ended)
                if alone:
                    _kill_leftovers()
            child = _fork_child(control, pair, answer, prepare_child, warm_up)
            if not child and _wait_for_request(pair, control.fd):
                child = _fork_child(control, pair, answer, prepare_child, warm_up)
                if not child:
                    _refuse_request(FrameSocket(pair))
            os.close(pair)
    finally:
        if child:
            _kill_and_wait(child)


def _fork_child(
    control: FrameSocket,
    pair: int,
    answer: AnswerRequest,
    prepare_child: Callable[[], None],
    warm_up: Callable[[], None],
) -> int:
    """Fork a child that waits for its request; return its PID, or 0 at the process limit."""
    try:
        pid = os.fork()
    except OSError:
        return 0
    if pid == 0:
        os.dup2(pair, control.fd, inheritable=False)
        os.close(pair)
        # Closed and SystemExit propagate through `serve` to the runner, which ends this process. In
        # this process `child` is still 0, so `serve` kills nothing on the way.
        prepare_child()
        if not _is_readable(control.fd, 0):
            warm_up()
            _warm_up_socket(control)
        _, request = control.receive()
        control.send(*answer(request))
        # The template kills this child later: exiting now would take 0.7 ms of a CPU that the
        # answer's way to the caller may need.
        while True:
            signal.pause()
    return pid


def _warm_up_socket(control: FrameSocket) -> None:
    """Send and receive a frame through a socket pair, to copy the 13 pages that this writes to."""
    far, near = socket.socketpair()
    with far, near:
        kept, control.fd = control.fd, near.fileno()
        control.send(RESULT, b"0", bytes(TICKET_BYTES))
        far.send(far.recv(64))
        control.receive()
        control.fd = kept


def _kill_and_wait(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _wait_for_request(pair: int, control_fd: int) -> bool:
    """Wait until a request is in the pair (True) or the control socket is readable (False)."""
    waiting = select.poll()
    waiting.register(pair, select.POLLIN)
    waiting.register(control_fd, select.POLLIN)
    return any(fd == pair for fd, _ in waiting.poll())


def _refuse_request(child_socket: FrameSocket) -> None:
    """Answer the request in place of a child that could not be forked."""
    _, request = child_socket.receive()
    refusal = refuse("processes", "BlockingIOError", "no process could be started for this call")
    child_socket.send(ERROR, refusal, bytes(request[:TICKET_BYTES]))


def _is_readable(fd: int, patience_ms: int) -> bool:
    """Wait at most `patience_ms` for a request, or for the worker to close its end."""
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    return bool(waiting.poll(patience_ms))


def _kill_leftovers() -> None:
    """Kill everything that the call left running; kill(2) spares PID 1 and the calling process."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return  # usually nothing is left


def _end_like(pid: int) -> NoReturn:
    """Wait for the child and end this process the same way, by status or by signal.

    A child that merely closed its end of the pair still runs. The worker's time limit then ends the
    wait, as it ends any other loop.
    """
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        ending = os.WTERMSIG(status)
        signal.signal(ending, signal.SIG_DFL) if ending not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), ending)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
