"""Audit log: append-only JSON lines that record who did what, chained by hashes.

Each line is a JSON object whose `previous` is the SHA-256 of the line before it, without its line
end. A line that is changed, removed or inserted therefore breaks the chain.

`<log>.chain` beside the log holds the number and the hash of the last line. It serves as the lock
between writers, carries the chain over a rotation and shows when lines at the end are missing.
Anyone who can write both files can write another history; to detect that, keep the last hash
elsewhere (`sandlot audit verify` prints it).
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
"""`previous` of the first line of a chain."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Record of one action. Its fields hold names and numbers, never a secret, an event or code."""

    action: str
    outcome: str
    """`ok`, or the code of the problem that the caller received."""
    who: str = ""
    """Owner of the API key, or the local user who ran a command; empty if unknown."""
    key: str = ""
    """Id of the API key."""
    function: str = ""
    digest: str = ""
    """Digest of the version that was deployed or addressed."""
    target: str = ""
    """Other object of the action: an alias, a secret's name, a job, a key's id."""
    source: str = ""
    """Client address; `command` for a command on this machine."""
    request: str = ""
    """X-Request-Id of the reply."""


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    n: int
    time: str
    previous: str


class ChainHead(msgspec.Struct, frozen=True):
    """End of a chain: the number of its last line and that line's hash."""

    n: int = 0
    hash: str = FIRST_PREVIOUS


class AuditLog:
    """Writer of one log. Any number of processes may write the same log."""

    def __init__(self, path: Path) -> None:
        """Open the chain file and create the log.

        Raises:
            InvalidSettings: the log cannot be written there.
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
        """Append the entries, in order.

        If the log was renamed (rotated), a new file under the old name continues the chain.

        Raises:
            OSError: nothing was recorded, for example because the disk is full.
        """
        fcntl.flock(self._chain, fcntl.LOCK_EX)
        try:
            head = _read_head(os.pread(self._chain, 200, 0))
            text = b""
            for entry in entries:
                line = _line(entry, head)
                text += line + b"\n"
                head = ChainHead(head.n + 1, _hash(line))
            # Opened for each write: a descriptor kept open would go on writing to a file that was
            # rotated or removed.
            log = _open_log(self.path)
            try:
                _write_whole(log, text)
            finally:
                os.close(log)
            os.pwrite(self._chain, b"%d %b\n" % (head.n, head.hash.encode()), 0)
        finally:
            fcntl.flock(self._chain, fcntl.LOCK_UN)


def chain_file(path: Path) -> Path:
    """Return the path of the chain file that belongs to a log."""
    return path.with_name(path.name + ".chain")


def verify(paths: Iterable[Path]) -> ChainHead:
    """Verify the chain that these files form, oldest first, and return its head.

    The log is not locked: verify a copy, or stop all writers first.

    Raises:
        CallerError: the chain is broken; the message names the file and the line.
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
                f"{last} ends with record {head.n}, but {end.n} records were written: the end was cut off or changed"
            )
    return head


def _follow(where: str, line: bytes, head: ChainHead | None) -> ChainHead:
    try:
        read = msgspec.json.decode(line, type=_Line)
    except msgspec.MsgspecError as error:
        raise CallerError(f"{where}: not a record of an audit log ({error})") from None
    # The first file given may start in the middle of a chain whose older files are kept elsewhere;
    # only record 1 has no predecessor.
    before = head or (ChainHead() if read.n == 1 else ChainHead(read.n - 1, read.previous))
    if (read.n, read.previous) != (before.n + 1, before.hash):
        raise CallerError(f"{where}: does not follow record {before.n}: a record was changed, removed or inserted")
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
    """Append all of the text or none of it: a half-written line would break the chain."""
    before = os.fstat(log).st_size
    written = os.write(log, text)
    if written != len(text):
        os.ftruncate(log, before)
        raise OSError(28, "the disk is full")


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
