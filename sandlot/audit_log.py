"""The audit log: who did what, in lines that are only ever appended, each bound to the one before.

Knows: the file, the chain of hashes, rotation, several writers at once, how a chain is judged. Does not know: HTTP, what is worth a record.

Each line is a JSON object whose `previous` is the SHA-256 of the line before, without its line end; so nothing between two lines can be
changed, taken out or put in without breaking what follows. Beside the log, `<log>.chain` holds the hash and the number of the last line: it
is the lock that writers take turns by, carries the chain over a rotation, and tells when lines at the end are missing. Whoever may write
both files can write another history; keep the last hash somewhere else to notice (`sandlot audit verify` prints it).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from sandlot.errors import CallerError, InvalidSettings

FIRST_PREVIOUS: Final = "0" * 64
"""What the first line of a chain is bound to."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is recorded of one act. Everything is a name or a number: never a secret, a key's secret, an event or code."""

    action: str
    outcome: str
    """`ok`, or the code of the problem that the caller was answered with."""
    who: str = ""
    """The owner of the API key, or the user of this machine who ran a command; empty for nobody known."""
    key: str = ""
    """The id of the API key."""
    function: str = ""
    digest: str = ""
    """Of the version that was deployed or meant."""
    target: str = ""
    """What else it was done to: an alias, a secret's name, a job, a key's id."""
    source: str = ""
    """The address it came from; `command` for a command on this machine."""
    request: str = ""
    """The X-Request-Id of the answer."""


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    n: int
    time: str
    previous: str


class ChainHead(msgspec.Struct, frozen=True):
    """The end of a chain: how many lines it has, and the hash of the last."""

    n: int = 0
    hash: str = FIRST_PREVIOUS


class AuditLog:
    """One log, in this process; any number of processes may write the same."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InvalidSettings: it cannot be written there.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._chain = os.open(chain_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(_open_log(path))
        except OSError as error:
            raise InvalidSettings(
                f"cannot write the audit log {path}: {error.strerror} (SANDLOT_AUDIT: a file, or off)"
            ) from error

    def close(self) -> None:
        os.close(self._chain)

    def write(self, *entries: Entry) -> None:
        """Append them, in order; a log that was renamed meanwhile is followed by a new one under its old name.

        Raises:
            OSError: they are not recorded (the disk is full, for one).
        """
        fcntl.flock(self._chain, fcntl.LOCK_EX)
        try:
            head = _read_head(os.pread(self._chain, 200, 0))
            text = b""
            for entry in entries:
                line = _line(entry, head)
                text += line + b"\n"
                head = ChainHead(head.n + 1, _hash(line))
            # Opened each time, so that whatever has become of the file (rotated, removed) is found here and not guessed from a descriptor.
            log = _open_log(self.path)
            try:
                _write_whole(log, text)
            finally:
                os.close(log)
            os.pwrite(self._chain, b"%d %b\n" % (head.n, head.hash.encode()), 0)
        finally:
            fcntl.flock(self._chain, fcntl.LOCK_UN)


def chain_file(path: Path) -> Path:
    return path.with_name(path.name + ".chain")


def verify(paths: Iterable[Path]) -> ChainHead:
    """The end of the chain that these files form, oldest first, if it is whole. Does not lock: verify a copy, or while nobody writes.

    Raises:
        CallerError: it is not; the message names the file and the line.
    """
    head: ChainHead | None = None
    last = Path()
    for path in paths:
        last = path
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise CallerError(f"cannot read {path}: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            head = _follow(f"{path}, line {number}", line, head)
    head = head or ChainHead()
    if chain_file(last).is_file():
        end = _read_head(chain_file(last).read_bytes())
        if end != head:
            raise CallerError(
                f"{last} ends with record {head.n}, but {end.n} were written: the end was cut off or changed"
            )
    return head


def _follow(where: str, line: bytes, head: ChainHead | None) -> ChainHead:
    try:
        read = msgspec.json.decode(line, type=_Line)
    except msgspec.MsgspecError as error:
        raise CallerError(f"{where}: not a record of an audit log ({error})") from None
    # A first file that begins in the middle is one whose predecessors are kept elsewhere; only record 1 has nothing before it.
    before = head or (ChainHead() if read.n == 1 else ChainHead(read.n - 1, read.previous))
    if (read.n, read.previous) != (before.n + 1, before.hash):
        raise CallerError(f"{where}: does not follow record {before.n}: a record was changed, removed or put in")
    return ChainHead(read.n, _hash(line))


def _line(entry: Entry, head: ChainHead) -> bytes:
    frame = _Line(n=head.n + 1, time=datetime.now(UTC).isoformat(timespec="milliseconds"), previous=head.hash)
    return msgspec.json.encode(msgspec.to_builtins(frame) | msgspec.to_builtins(entry))


def _read_head(text: bytes) -> ChainHead:
    words = text.split()
    return ChainHead(int(words[0]), words[1].decode()) if len(words) >= 2 else ChainHead()


def _open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _write_whole(log: int, text: bytes) -> None:
    """All of it or none: a line that is half there would end the chain."""
    before = os.fstat(log).st_size
    written = os.write(log, text)
    if written != len(text):
        os.ftruncate(log, before)
        raise OSError(28, "the disk is full")


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
