"""The runtime's main loop: load a function and answer requests until the worker closes the socket.

It runs inside the sandbox, in the process of the user's code, which can read and change everything
here. This file therefore protects nothing. It serves functions that behave, and a function that
does not behave can do the worker no harm through it. Isolation, limits and clocks are the worker's.
"""

from __future__ import annotations

# The C module: each sandbox would touch, and so copy, the memory of the enums in `signal`.
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
from .context import Context, FunctionVersion
from .failure import LoadFailed, describe, describe_bad_result, refuse
from .frames import BUFFER_BYTES, ERROR, READY, RESULT, TICKET_BYTES, Closed, FrameSocket, split_request
from .handler import Awaiter, Handler, load_handler, warm_up_load_handler
from .secret_files import FOLDER_VARIABLE, SecretFiles

PROTOCOL: Final = 1

_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_decoder = json.JSONDecoder()

_BUFFER: Final = bytearray(BUFFER_BYTES)
"""The buffer for `serve`, made before the fork: sandboxes share its pages until they receive."""

_WARMUP_RUNS: Final = 20
"""Well above the 8 calls after which CPython 3.11 starts to specialise a function."""

_NEVER_AWAITABLE: Final = frozenset({dict, list, str, int, float, bool, type(None), tuple})
"""Types that are never awaitable. Most results have one, which saves an attribute lookup."""


def serve(control_fd: int = 3, trace_fd: int = 4, gate_fd: int = -1) -> NoReturn:
    """Speak the protocol on `control_fd` until the worker closes it, then end the process.

    Args:
        trace_fd: SIGINT writes the stacks of all threads there.
        gate_fd: an eventfd(2) to wait for, and close, before reading anything of the bundle; -1 if
            the bundle is mounted already.
    """
    control = FrameSocket(control_fd, _BUFFER)
    _open_streams()
    _dump_stack_on_sigint(trace_fd)
    sys.dont_write_bytecode = True  # the bundle is read-only; each attempt costs four system calls
    _warm_up_load()
    try:
        _, body = control.receive()
        init = json.loads(bytes(body))
        if gate_fd >= 0:
            os.eventfd_read(gate_fd)
            os.close(gate_fd)
        invocation = _load(control, init)
        if init.get("isolation") == "fork":
            template.serve(
                control,
                invocation.answer,
                bool(init.get("alone")),
                lambda: _prepare_child(invocation, trace_fd),
                invocation.warm_up,
            )
        while True:
            _, request = control.receive()
            control.send(*invocation.answer(request))
    except Closed:
        os._exit(0)
    except SystemExit as request:
        _end(request.code)


class Invocations:
    """The handler, which answers one request after the other."""

    def __init__(self, init: Mapping[str, Any], handler: Handler, secrets: SecretFiles) -> None:
        self.secrets = secrets
        self._bundle = str(init["bundle"])
        self._handler = handler
        self._result_limit_bytes = int(init["result_limit_bytes"])
        self._version = FunctionVersion(init)
        self._awaiter = Awaiter()

    def answer(self, request: memoryview) -> tuple[bytes, bytes, bytes]:
        """Call the handler; return type, body and ticket of the frame with its answer.

        Everything that the handler printed has been flushed by then.

        Raises:
            SystemExit: the handler wants the process to end.
        """
        ticket, context_text, event_text = split_request(request)
        kind, body = self._call_handler(context_text, event_text)
        _flush()
        return kind, body, ticket

    def warm_up(self) -> None:
        """Run `answer` with a handler of the runtime's own.

        This writes to the pages that an answer writes to. A fork shares them all, and the first
        write to each costs a copy (0.3 ms together).
        """
        context = b'{"job_id":"","attempt":0,"remaining_ms":0}'
        request = bytes(TICKET_BYTES) + len(context).to_bytes(4, "big") + context + b'{"a":[1]}'
        handler, self._handler = self._handler, _echo
        self.answer(memoryview(request))
        self._handler = handler

    def _call_handler(self, context_text: memoryview, event_text: memoryview) -> tuple[bytes, bytes]:
        try:
            context = Context(self._version, bytes(context_text))
            result = self._handler(_decode(str(event_text, "utf-8")), context)
            if type(result) not in _NEVER_AWAITABLE and hasattr(result, "__await__"):
                result = self._awaiter.wait(result)
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 -- any exception of user code becomes its answer
            return ERROR, describe(error, self._bundle)
        return self._encode_result(result)

    def _encode_result(self, result: object) -> tuple[bytes, bytes]:
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
    """Decode JSON text that the worker has checked.

    White space before the value is rare. `JSONDecoder.decode` would search for it each time, before
    and behind the value.
    """
    if text[:1] in " \t\r\n":
        return _decoder.decode(text)
    return _decoder.scan_once(text, 0)[0]  # type: ignore[attr-defined]  # in CPython since 2.7, unknown to its stubs


def _echo(event: object, _context: object) -> object:
    return event


def _warm_up_load() -> None:
    """Copy the memory pages that loading and answering write to, before `I` arrives.

    Reads no file except /dev/null.
    """
    init = json.loads('{"bundle": "/nowhere", "result_limit_bytes": 100, "function": "", "version": ""}')
    Invocations(init, warm_up_load_handler(_echo), SecretFiles("", {})).warm_up()
    _encode({"ok": True, "import_ms": _since_ms(time.monotonic())}).encode()


def warm_up() -> None:
    """Run the code that every sandbox will run, in the zygote before it forks.

    The interpreter rewrites code after some runs (PEP 659) and caches its lookups. All sandboxes
    share what it writes here.
    """
    for _ in range(_WARMUP_RUNS):
        _open_stream(2)
        _warm_up_load()


def _prepare_child(invocations: Invocations, trace_fd: int) -> None:
    """Prepare a forked child before its request arrives."""
    _dump_stack_on_sigint(trace_fd)
    invocations.secrets.write()  # again, because the previous call may have changed the files


def _load(control: FrameSocket, init: Mapping[str, Any]) -> Invocations:
    """Import the function and send `K`.

    Raises:
        Closed: the function cannot be loaded, and `K` said so; the process has no further use.
        SystemExit: the function's module wants the process to end.
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
        # These objects live as long as the process: later collections need not visit them, nor copy
        # their pages.
        gc.freeze()
        _flush()
        control.send(READY, _encode({"ok": True, "import_ms": _since_ms(began_s)}).encode())
        return invocations
    _flush()
    control.send(READY, _encode({"ok": False, "import_ms": _since_ms(began_s), **json.loads(body)}).encode())
    raise Closed


def _give_environment(init: Mapping[str, Any]) -> SecretFiles:
    """Set the manifest's variables, then the secrets as variables and files."""
    secrets = init.get("secrets") or {}
    # HOME is read before the manifest's variables, which may replace it.
    files = SecretFiles(os.environ.get("HOME", ""), secrets)
    files.write()
    for variables in (init.get("environment"), secrets):
        if variables:  # an update with an empty mapping touches, and so copies, six pages
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
    """Point stdout and stderr at the log pipe, line-buffered so that a kill loses no whole line."""
    sys.stdout = sys.__stdout__ = _open_stream(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _open_stream(2)  # type: ignore[misc]


def _open_stream(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S112 -- user code may have replaced or closed it, and loses its own logs
            continue


def _dump_stack_on_sigint(trace_fd: int) -> None:
    """Make SIGINT write the stacks of all threads, by faulthandler's C code, wherever they are.

    For Python SIGINT is ignored, because `asyncio.run` replaces the default handler, and only that.
    """
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    faulthandler.register(_signal.SIGINT, file=trace_fd, all_threads=True, chain=False)


def _end(code: object) -> NoReturn:
    """End the process as `sys.exit(code)` does, but without running any more user code."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
    _flush()
    os._exit((0 if code is None else code if isinstance(code, int) else 1) & 0xFF)
