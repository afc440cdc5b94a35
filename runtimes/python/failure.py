"""Bodies of `E` frames, from failures of user code.

The exceptions come from user code, so their `__str__`, length and depth cannot be trusted. The
kinds are those of `runtimes/PROTOCOL.md`.
"""

from __future__ import annotations

import errno
import json
import linecache
import math
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

from .frames import ERROR_LIMIT_BYTES

_MESSAGE_LIMIT_CHARS: Final = 16 * 1024
_FRAMES_KEPT: Final = 30
"""Frames kept at each end of a traceback; those between, mostly a recursion, are only counted."""
_CAUSES_KEPT: Final = 8
_NODES_SEARCHED: Final = 100_000
"""Limit of the search for the value that is not JSON: about 10 ms at 10 million nodes a second."""


class LoadFailed(Exception):
    """The function cannot be loaded; the text is for the person who deployed it."""


def describe(error: BaseException, bundle: str, kind: str | None = None) -> bytes:
    """Return the JSON body for an exception; the kind is derived from it unless given.

    Args:
        bundle: folder of the user's files; frames outside it are left out.
    """
    fields = {
        "kind": kind or _kind_of(error),
        "errorType": _name_of(error),
        "errorMessage": _message_of(error),
        "stackTrace": _stack_trace(error, bundle),
    }
    return _bounded(fields)


def refuse(kind: str, error_type: str, message: str) -> bytes:
    """Return the JSON body for a failure that has no exception."""
    return _bounded({"kind": kind, "errorType": error_type, "errorMessage": message, "stackTrace": []})


def describe_bad_result(error: BaseException, result: object) -> bytes:
    """Return the JSON body for a result that could not be encoded.

    Its message names the path to the offending value if a bounded search finds it.
    """
    if isinstance(error, MemoryError):
        return refuse("memory", "MemoryError", "no memory was left to encode the result")
    if isinstance(error, RecursionError):
        return refuse("bad_result", "RecursionError", "the result is nested too deeply to be JSON (200 levels at most)")
    try:
        where = _find_culprit(result)
    except Exception:  # noqa: BLE001 -- a user's subclass of dict or list may raise anything; the first error then stands
        where = None
    return refuse("bad_result", _name_of(error), f"the result is not JSON: {where or _message_of(error)}")


def _bounded(fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields).encode()
    if len(body) > ERROR_LIMIT_BYTES:
        fields["stackTrace"] = [line[:300] for line in fields["stackTrace"][-10:]]
        fields["errorMessage"] = fields["errorMessage"][:4096]
        body = json.dumps(fields).encode()
    return body


def _kind_of(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "processes"
    if isinstance(error, BlockingIOError) and error.errno == errno.EAGAIN and _was_forking(error.__traceback__):
        return "processes"
    return "error"


def _was_forking(trace: TracebackType | None) -> bool:
    """Tell a refused fork from an empty non-blocking socket, which also raises EAGAIN.

    Only the code that failed distinguishes them.
    """
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return "fork" in code.co_name or "fork" in linecache.getline(code.co_filename, trace.tb_lineno)


def _name_of(error: BaseException) -> str:
    return _printable(type(error).__name__)[:200]


def _message_of(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 -- a user's __str__ may raise anything, SystemExit included
        return "<the exception's own __str__ failed>"
    if len(text) > _MESSAGE_LIMIT_CHARS:
        text = f"{text[:_MESSAGE_LIMIT_CHARS]}… ({len(text)} characters)"
    return _printable(text)


def _printable(text: str) -> str:
    """Escape lone surrogates, which are legal in a `str` and illegal in UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _stack_trace(error: BaseException, bundle: str) -> list[str]:
    """Return the lines of a traceback, causes first, as Python prints them.

    The frames of each cause are followed by a line with its type, message and effect.
    """
    lines: list[str] = []
    for cause, effect in reversed(list(_causes(error))):
        lines.extend(_user_frames(cause, bundle))
        lines.append(f"{_name_of(cause)}: {_message_of(cause)[:500]} [{effect}]")
    lines.extend(_user_frames(error, bundle))
    lines.extend(_group_members(error))
    return lines


def _causes(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """Yield the causes of an exception, nearest first, each with its effect on the one before."""
    seen = {id(error)}
    while len(seen) <= _CAUSES_KEPT:
        cause, effect = error.__cause__, "directly caused"
        if cause is None:
            effect = "was being handled when this happened"
            cause = None if error.__suppress_context__ else error.__context__
        if cause is None or id(cause) in seen:
            return
        yield cause, effect
        seen.add(id(cause))
        error = cause


def _group_members(error: BaseException) -> Iterator[str]:
    """Yield a line for each member of an exception group."""
    for member in getattr(error, "exceptions", ())[:10]:
        if isinstance(member, BaseException):
            yield f"+ {_name_of(member)}: {_message_of(member)[:500]}"


def _user_frames(error: BaseException, bundle: str) -> list[str]:
    if isinstance(error, SyntaxError) and (error.filename or "").startswith(bundle):
        return [f'  File "{error.filename}", line {error.lineno}\n    {(error.text or "").strip()[:200]}\n']
    found: list[tuple[str, int, str]] = []
    prefix = bundle.rstrip("/") + "/"
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.startswith(prefix):
            found.append((code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    left_out = len(found) - 2 * _FRAMES_KEPT
    if left_out <= 0:
        return [_frame_line(*place) for place in found]
    head = [_frame_line(*place) for place in found[:_FRAMES_KEPT]]
    return [*head, f"  … {left_out} frames …", *(_frame_line(*place) for place in found[-_FRAMES_KEPT:])]


def _frame_line(file: str, line: int, name: str) -> str:
    source = linecache.getline(file, line).strip()[:200]
    text = f'  File "{file}", line {line}, in {name}\n'
    return _printable(f"{text}    {source}\n" if source else text)


def _find_culprit(result: object) -> str | None:
    """Return the path to a value that JSON cannot represent, and what it is; None if not found."""
    waiting: list[tuple[object, str, int]] = [(result, "result", 0)]
    for _ in range(_NODES_SEARCHED):
        if not waiting:
            return None
        value, path, depth = waiting.pop()
        if depth > 200:
            return f"{path[:200]}… is nested deeper than 200 levels, or contains itself"
        if isinstance(value, dict):
            for key, member in value.items():
                if not isinstance(key, (str, int, float, bool, type(None))):
                    return f"{path} has a key of type {type(key).__name__}; keys must be text"
                waiting.append((member, f"{path}[{key!r:.60}]", depth + 1))
        elif isinstance(value, (list, tuple)):
            waiting.extend((member, f"{path}[{index}]", depth + 1) for index, member in enumerate(value))
        else:
            wrong = _wrong_with(value)
            if wrong:
                return f"{path} {wrong}"
    return None


def _wrong_with(value: object) -> str | None:
    if isinstance(value, str):
        return None if _printable(value) == value else "is text with a lone surrogate, which UTF-8 cannot hold"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"is {value}, which JSON does not have"
    if isinstance(value, int):
        return None if value.bit_length() < 14_000 else "is an integer of more than 4,300 digits"
    if value is None:
        return None
    return f"is of type {type(value).__name__}, which JSON cannot represent"
