"""Load a function and answer requests with it, for as long as the worker wants.

Knows: the order of frames, the streams, what ends a process. Does not know: walls, limits, time; the worker has those.

Runs inside the sandbox, in the process of the user's code, which can read and change everything here. Nothing in this file
protects anything: it is correct for functions that behave, and harmless to the worker for those that do not.
"""

from __future__ import annotations

# Without the enums of `signal`: each sandbox would touch, and so copy, their memory.
import _signal  # type: ignore[import-not-found]
import faulthandler
import gc
import io
import json
import os
import sys
import time
import types
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from . import template
from .context import Context, Version
from .failure import LoadFailed, describe, describe_bad_result, refuse
from .frames import BUFFER_BYTES, ERROR, READY, RESULT, TICKET_BYTES, Closed, Link, split_request
from .handler import Awaiter, Handler, load_handler, rehearse_load_handler
from .secret_files import FOLDER_VARIABLE, SecretFiles

PROTOCOL: Final = 1

_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_decoder = json.JSONDecoder()

_BUFFER: Final = bytearray(BUFFER_BYTES)
"""For `serve`, made before the fork: blanks share its pages until something is received."""

_REHEARSALS: Final = 20
"""Well above the 8 calls after which CPython 3.11 begins to specialise a function."""

_PLAIN: Final = frozenset({dict, list, str, int, float, bool, type(None), tuple})
"""Types that are no awaitable: most results, told apart without a look at their attributes."""


def serve(control_fd: int = 3, trace_fd: int = 4, gate_fd: int = -1) -> NoReturn:
    """Speak the protocol on `control_fd` until the worker closes it, then end the process.

    Args:
        gate_fd: an eventfd(2) to wait for before anything of the bundle is read; closed by then. -1: the bundle is there.
    """
    link = Link(control_fd, _BUFFER)
    _open_streams()
    _tell_stack_when_asked(trace_fd)
    sys.dont_write_bytecode = True  # The bundle is read-only; trying costs four system calls for each module.
    _rehearse_load()
    try:
        _, body = link.receive()
        init = json.loads(bytes(body))
        if gate_fd >= 0:
            os.eventfd_read(gate_fd)
            os.close(gate_fd)
        invocation = _load(link, init)
        if init.get("isolation") == "fork":
            template.serve(
                link,
                invocation.answer,
                bool(init.get("alone")),
                lambda: _prepare_child(invocation, trace_fd),
                invocation.rehearse,
            )
        while True:
            _, request = link.receive()
            link.send(*invocation.answer(request))
    except Closed:
        os._exit(0)
    except SystemExit as request:
        _end(request.code)


class Invocations:
    """Calls one handler, request by request."""

    def __init__(self, init: Mapping[str, Any], handler: Handler, secrets: SecretFiles) -> None:
        self.secrets = secrets
        self._bundle = str(init["bundle"])
        self._handler = handler
        self._result_limit_bytes = int(init["result_limit_bytes"])
        self._version = Version(init)
        self._awaiter = Awaiter()

    def answer(self, request: memoryview) -> tuple[bytes, bytes, bytes]:
        """Type, body and ticket of the frame that answers this request; its logs are written out when this returns.

        Raises:
            SystemExit: the handler asked for the end of the process.
        """
        ticket, context_text, event_text = split_request(request)
        kind, body = self._call(context_text, event_text)
        _flush()
        return kind, body, ticket

    def rehearse(self) -> None:
        """Everything that `answer` does, except that what is called is not the user's.

        It writes to the pages that an answer writes to: a fork shares all of them, and each first write costs a copy (0.3 ms together).
        """
        context = b'{"job_id":"","attempt":0,"remaining_ms":0}'
        request = bytes(TICKET_BYTES) + len(context).to_bytes(4, "big") + context + b'{"a":[1]}'
        handler, self._handler = self._handler, _echo
        self.answer(memoryview(request))
        self._handler = handler

    def _call(self, context_text: memoryview, event_text: memoryview) -> tuple[bytes, bytes]:
        try:
            context = Context(self._version, bytes(context_text))
            result = self._handler(_decode(str(event_text, "utf-8")), context)
            if type(result) not in _PLAIN and hasattr(result, "__await__"):
                result = self._awaiter.wait(result)
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 -- whatever user code raises is its answer
            return ERROR, describe(error, self._bundle)
        return self._frame_of(result)

    def _frame_of(self, result: object) -> tuple[bytes, bytes]:
        if isinstance(result, (types.GeneratorType, types.AsyncGeneratorType)):
            return ERROR, refuse("bad_result", "TypeError", "the handler returned a generator: return the whole value")
        try:
            body = _encode(result).encode()
        except Exception as error:  # noqa: BLE001 -- a user's subclass of dict or str may raise anything
            return ERROR, describe_bad_result(error, result)
        if len(body) > self._result_limit_bytes:
            message = f"the result is {len(body)} bytes of JSON; at most {self._result_limit_bytes} are allowed"
            return ERROR, refuse("bad_result", "ResultTooLarge", message)
        return RESULT, body


def _decode(text: str) -> object:
    """The worker has checked that it is one JSON value. White space before it is rare; `decode` would search for it, and behind it, each time."""
    if text[:1] in " \t\r\n":
        return _decoder.decode(text)
    return _decoder.scan_once(text, 0)[0]  # type: ignore[attr-defined]  # in CPython since 2.7, unknown to its stubs


def _echo(event: object, _context: object) -> object:
    return event


def _rehearse_load() -> None:
    """Ahead of `I`, in a blank: what loading and answering touch, for the same reason. Reads no file but /dev/null."""
    init = json.loads('{"bundle": "/nowhere", "result_limit_bytes": 100, "function": "", "version": ""}')
    Invocations(init, rehearse_load_handler(_echo), SecretFiles("", {})).rehearse()
    _encode({"ok": True, "import_ms": _since_ms(time.monotonic())}).encode()


def rehearse() -> None:
    """In the zygote, before it forks: run what a blank will run, so that nothing of it is done for the first time there.

    The interpreter rewrites code that has run some times (PEP 659), and remembers what it looked up. All sandboxes share what it writes here.
    """
    for _ in range(_REHEARSALS):
        _open_stream(2)
        _rehearse_load()


def _prepare_child(invocations: Invocations, trace_fd: int) -> None:
    """Ahead of its request, in a forked child."""
    _tell_stack_when_asked(trace_fd)
    invocations.secrets.write()  # again: the call before, which its input may have taken over, could change them


def _load(link: Link, init: Mapping[str, Any]) -> Invocations:
    """Import the function and say so.

    Raises:
        Closed: after the worker was told that it cannot be loaded; it has no other use for this process.
        SystemExit: the function's module asked for the end of the process.
    """
    began_s = time.monotonic()
    try:
        _check_protocol(init.get("protocol"))
        secrets = _give_environment(init)
        handler = load_handler(str(init["bundle"]), str(init.get("handler", "")), str(init.get("packages", "")))
        invocations = Invocations(init, handler, secrets)
    except SystemExit:
        raise
    except LoadFailed as error:
        body = refuse("import_error", "ImportError", str(error))
    except BaseException as error:  # noqa: BLE001 -- a user's module may raise anything while it is imported
        body = describe(error, str(init.get("bundle", "")), "import_error")
    else:
        gc.freeze()  # What lives now lives as long as the process: later collections need not walk it, nor copy its pages.
        _flush()
        link.send(READY, _encode({"ok": True, "import_ms": _since_ms(began_s)}).encode())
        return invocations
    _flush()
    link.send(READY, _encode({"ok": False, "import_ms": _since_ms(began_s), **json.loads(body)}).encode())
    raise Closed


def _give_environment(init: Mapping[str, Any]) -> SecretFiles:
    """Set the manifest's variables, then the secrets: as variables, and as files."""
    secrets = init.get("secrets") or {}
    files = SecretFiles(os.environ.get("HOME", ""), secrets)  # the sandbox's home: a manifest may name another
    files.write()
    for variables in (init.get("environment"), secrets):
        if variables:  # an update with nothing touches, and so copies, six pages
            os.environ.update(variables)
    if files.folder:
        os.environ[FOLDER_VARIABLE] = files.folder
    return files


def _check_protocol(spoken: object) -> None:
    if spoken != PROTOCOL:
        raise LoadFailed(f"this runtime speaks protocol {PROTOCOL}, not {spoken!r}")


def _since_ms(began_s: float) -> float:
    return round((time.monotonic() - began_s) * 1000, 3)


def _open_streams() -> None:
    """stdout and stderr on the log pipe, line by line: what was printed before a kill has left the process."""
    sys.stdout = sys.__stdout__ = _open_stream(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _open_stream(2)  # type: ignore[misc]


def _open_stream(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S112 -- user code may have replaced or closed it: its logs, its loss
            continue


def _tell_stack_when_asked(trace_fd: int) -> None:
    """Answer SIGINT with faulthandler's text, which is written by C code wherever the process is.

    Ignored in Python's own table: `asyncio.run` takes SIGINT over from the default handler, and only from that.
    """
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    faulthandler.register(_signal.SIGINT, file=trace_fd, all_threads=True, chain=False)


def _end(code: object) -> NoReturn:
    """End as `sys.exit(code)` ends a program, except that nothing more of the user's is run."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
    _flush()
    os._exit((0 if code is None else code if isinstance(code, int) else 1) & 0xFF)
