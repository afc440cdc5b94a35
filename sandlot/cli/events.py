"""Where the event of a call comes from: the command line, a file, or stdin.

Knows: the two ways to say which. Does not know: which function gets it, how large it may be.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import typer

from sandlot.errors import InvalidJson


def read_event(argument: str | None, source: str | None) -> bytes:
    """The event's JSON text; `null` if none is given.

    Args:
        argument: JSON, `@FILE`, or `-` for stdin.
        source: what `--event` says: a file, or `-` for stdin.

    Raises:
        InvalidJson: there is no such file, or it is not JSON.
    """
    if argument is not None and source is not None:
        raise typer.BadParameter("the event is given twice: as an argument, and with --event")
    if argument is not None:
        source = argument.removeprefix("@") if argument.startswith("@") or argument == "-" else None
    try:
        content = (argument or "null").encode() if source is None else _read(source)
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidJson(f'the event is not JSON: {error}. In a shell, quote it: \'{{"name": "Ada"}}\'') from error
    return content


def _read(source: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InvalidJson(f"cannot read the event from {source}: {error.strerror}") from error
