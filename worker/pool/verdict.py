"""The verdict: how a call ended. No other module classifies outcomes.

A claim in a frame is believed only about the function itself: its result or its exception. That
includes a claimed `MemoryError` or a failed fork. Every limit and every measurement comes from the
worker's side: the kernel and the worker's clock.
"""

from __future__ import annotations

import signal
from typing import Final

import msgspec

from sandlot.errors import InvalidJson
from sandlot.models import Evidence, FunctionError, OutcomeKind
from sandlot.strict_json import check_json
from worker.sandbox.channel import RESULT
from worker.sandbox.log_pipe import FLOOD_LIMIT_BYTES
from worker.sandbox.spec import SandboxExit

MIB: Final = 1024 * 1024


class Verdict(msgspec.Struct, frozen=True):
    """The decided part of an outcome, and whether the instance may be called again."""

    kind: OutcomeKind
    result: bytes = b""
    error: FunctionError | None = None
    evidence: Evidence | None = None
    spoiled: bool = False
    """The process must not be called again: its memory or its processes are used up, or something
    other than the runtime has answered."""


class _ErrorFrame(msgspec.Struct, rename="camel"):
    error_type: str = "Error"
    error_message: str = ""
    stack_trace: list[str] = []
    kind: str = "error"


class _ReadyFrame(_ErrorFrame):
    ok: bool = False


_decode_error: Final = msgspec.json.Decoder(_ErrorFrame).decode
_decode_ready: Final = msgspec.json.Decoder(_ReadyFrame).decode

_CLAIMS: Final = {
    "error": OutcomeKind.ERROR,
    "bad_result": OutcomeKind.BAD_RESULT,
    "memory": OutcomeKind.MEMORY,
    "processes": OutcomeKind.PROCESSES,
}
_USED_UP: Final = frozenset({OutcomeKind.MEMORY, OutcomeKind.PROCESSES})
"""Claims after which the process still holds the memory or the processes that caused them."""
_OK: Final = OutcomeKind.OK


def of_answer(kind: bytes, body: bytes) -> Verdict:
    """Return the verdict on an `O` or `E` frame."""
    if kind == RESULT:
        try:
            check_json(body)
        except InvalidJson as error:
            # From the real runtime only lone surrogates or deep nesting get here. Anything else was
            # written by the function itself.
            return _bad_result(f"the result is not JSON: {error.message}")
        return Verdict(_OK, body)
    try:
        frame = _decode_error(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _bad_result("the function's process sent an error that is not JSON of the agreed form")
    claimed = _CLAIMS.get(frame.kind, OutcomeKind.ERROR)
    return Verdict(claimed, error=_error_of(frame), spoiled=claimed in _USED_UP)


def of_ready(body: bytes) -> Verdict | None:
    """Return the verdict on a `K` frame: None if the function was imported."""
    try:
        frame = _decode_ready(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Verdict(
            OutcomeKind.IMPORT_ERROR,
            error=_named("ImportError", "the function's process sent a malformed start message"),
        )
    return None if frame.ok else Verdict(OutcomeKind.IMPORT_ERROR, error=_error_of(frame))


def of_timeout(
    limit_s: float, measured_s: float, end: SandboxExit | None, stack: list[str], *, importing: bool
) -> Verdict:
    """Return the verdict on a call, or an import, that was killed at its limit."""
    what, key = ("import", "import_s") if importing else ("wall", "wall_s")
    message = f"the {what} limit of {limit_s:g} s passed; everything it had started was killed"
    limit, measured = {key: limit_s}, {key: round(measured_s, 3)}
    return Verdict(
        OutcomeKind.TIMEOUT, error=_named("Timeout", message), evidence=_evidence(end, limit, measured, stack)
    )


def of_flood(printed_bytes: int, end: SandboxExit | None) -> Verdict:
    """Return the verdict on a call that was killed for printing too much."""
    message = f"it printed more than {FLOOD_LIMIT_BYTES // MIB} MiB"
    limit, measured = {"output_bytes": float(FLOOD_LIMIT_BYTES)}, {"output_bytes": float(printed_bytes)}
    return Verdict(OutcomeKind.OUTPUT, error=_named("TooMuchOutput", message), evidence=_evidence(end, limit, measured))


def of_cancel(end: SandboxExit | None) -> Verdict:
    """Return the verdict on a call that was killed because it was cancelled."""
    return Verdict(
        OutcomeKind.CANCELLED, error=_named("Cancelled", "it was cancelled while it ran"), evidence=_evidence(end)
    )


def of_garbled(detail: str, end: SandboxExit | None) -> Verdict:
    """Return the verdict on a violation of the protocol.

    The process wrote a frame that is not allowed, or closed its control descriptor and ran on.
    """
    message = "the function's process interfered with its control descriptor"
    return Verdict(
        OutcomeKind.BAD_RESULT, error=_named("ProtocolViolation", message), evidence=_evidence(end, detail=detail)
    )


def of_end(end: SandboxExit, memory_limit_mib: int, logs: bytes) -> Verdict:
    """Return the verdict on a process that exited, or was killed, before it answered."""
    if end.oom_killed or _aborted_for_memory(end, logs):
        return _out_of_memory(end, memory_limit_mib)
    if end.signal == signal.SIGXCPU:
        measured = {"cpu_s": round((end.cpu_ms or 0) / 1000, 3)}
        return Verdict(
            OutcomeKind.CPU,
            error=_named("CpuLimit", "its CPU time limit was used up"),
            evidence=_evidence(end, {}, measured),
        )
    if end.signal is not None:
        message = f"its process was ended by {_signal_name(end.signal)}"
        return Verdict(OutcomeKind.SIGNAL, error=_named("Signal", message), evidence=_evidence(end))
    message = f"its process ended with status {end.exit_code} before it answered"
    return Verdict(OutcomeKind.EXIT, error=_named("Exit", message), evidence=_evidence(end))


def with_memory_evidence(verdict: Verdict, end: SandboxExit | None, memory_limit_mib: int) -> Verdict:
    """Return the verdict on a refused allocation with the kernel's figures added."""
    limit, measured = _memory_figures(end, memory_limit_mib)
    return Verdict(verdict.kind, error=verdict.error, evidence=_evidence(end, limit, measured))


def _out_of_memory(end: SandboxExit, memory_limit_mib: int) -> Verdict:
    limit, measured = _memory_figures(end, memory_limit_mib)
    message = f"it needed more than its memory limit of {memory_limit_mib} MiB"
    return Verdict(OutcomeKind.MEMORY, error=_named("OutOfMemory", message), evidence=_evidence(end, limit, measured))


def _memory_figures(end: SandboxExit | None, memory_limit_mib: int) -> tuple[dict[str, float], dict[str, float]]:
    peak = end.peak_memory_bytes if end is not None else None
    return {"memory_mib": float(memory_limit_mib)}, {} if peak is None else {"memory_mib": round(peak / MIB, 1)}


def _aborted_for_memory(end: SandboxExit, logs: bytes) -> bool:
    """Return whether V8 aborted because its heap was full, which it prints.

    musl's and glibc's allocators abort or trap without a message.
    """
    return end.signal in (signal.SIGABRT, signal.SIGTRAP) and b"JavaScript heap out of memory" in logs


def _evidence(
    end: SandboxExit | None,
    limit: dict[str, float] | None = None,
    measured: dict[str, float] | None = None,
    stack: list[str] | None = None,
    detail: str | None = None,
) -> Evidence:
    return Evidence(
        limit=limit or {},
        measured=measured or {},
        signal=None if end is None or end.signal is None else _signal_name(end.signal),
        exit_code=None if end is None else end.exit_code,
        peak_memory_bytes=None if end is None else end.peak_memory_bytes,
        cpu_ms=None if end is None else end.cpu_ms,
        stack=stack or [],
        detail=detail,
    )


def _bad_result(message: str) -> Verdict:
    return Verdict(OutcomeKind.BAD_RESULT, error=_named("BadResult", message), spoiled=True)


def _error_of(frame: _ErrorFrame) -> FunctionError:
    return FunctionError(error_type=frame.error_type, error_message=frame.error_message, stack_trace=frame.stack_trace)


def _named(error_type: str, message: str) -> FunctionError:
    return FunctionError(error_type=error_type, error_message=message)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
