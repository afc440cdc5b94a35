"""Turn what went wrong in user code into the body of an `E` frame.

Knows: exceptions, tracebacks, the kinds of `runtimes/PROTOCOL.md`. Does not know: frames.

User code wrote the exceptions looked at here, so their `__str__`, length and depth are not to be trusted.
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
"""At each end of a traceback; what is between (a recursion, mostly) is counted."""
_CAUSES_KEPT: Final = 8
_NODES_SEARCHED: Final = 100_000
"""Bound on looking for the value that is not JSON; at some 10 million a second it is a matter of 10 ms."""


class LoadFailed(Exception):
    """The function cannot be loaded; the text is for whoever deployed it."""


def describe(error: BaseException, bundle: str, kind: str | None = None) -> bytes:
    """The JSON body for `error`; `kind` as given, or by what it is."""
    lines = _chain(error, bundle)
    fields = {
        "kind": kind or _kind_of(error),
        "errorType": _name_of(error),
        "errorMessage": _message_of(error),
        "stackTrace": lines,
    }
    return _bounded(fields)


def refuse(kind: str, error_type: str, message: str) -> bytes:
    """The JSON body for something that is not an exception."""
    return _bounded({"kind": kind, "errorType": error_type, "errorMessage": message, "stackTrace": []})


def describe_bad_result(error: BaseException, result: object) -> bytes:
    """The JSON body for a result that could not be encoded, with the path to the value if it is found in bounded time."""
    if isinstance(error, MemoryError):
        return refuse("memory", "MemoryError", "no memory was left to encode the result")
    if isinstance(error, RecursionError):
        return refuse("bad_result", "RecursionError", "the result is nested too deeply to be JSON (200 levels at most)")
    try:
        where = _find_culprit(result)
    except Exception:  # noqa: BLE001 -- a user's subclass of dict or list may raise anything; then the first error has to do
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
    """EAGAIN is also what an empty non-blocking socket says; only the line that failed tells a refused fork from it."""
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
    """Lone surrogates are legal in a `str` and illegal in UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _chain(error: BaseException, bundle: str) -> list[str]:
    """Frames of the causes first, each followed by what it was and what it led to, then those of `error`."""
    links: list[tuple[BaseException, str]] = []
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen and len(links) <= _CAUSES_KEPT:
        seen.add(id(current))
        cause = current.__cause__
        led = "directly caused" if cause is not None else "was being handled when this happened"
        links.append((current, led))
        current = cause or (None if current.__suppress_context__ else current.__context__)
    lines: list[str] = []
    for index in range(len(links) - 1, -1, -1):
        link = links[index][0]
        lines.extend(_user_frames(link, bundle))
        if index:
            lines.append(f"{_name_of(link)}: {_message_of(link)[:500]} [{links[index - 1][1]}]")
    lines.extend(_members(error))
    return lines


def _members(error: BaseException) -> Iterator[str]:
    """What an exception group holds, one line each (Python 3.11 and later have them)."""
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
    """Where in `result` is something JSON has no form for, in words, or None."""
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
    return f"is of type {type(value).__name__}, which has no form in JSON"
