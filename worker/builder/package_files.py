"""Installed files, copied from a sandbox whose content may be hostile to the worker's disk.

Only plain files and their folders are made, in a folder that was empty: there are no symbolic
links to follow.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, Self

import msgspec

from sandlot.errors import VersionFailed

MIB: Final = 1024 * 1024
FILES_LIMIT: Final = 40_000
PATH_LIMIT_BYTES: Final = 1024


class BuildFailed(VersionFailed):
    """The dependencies cannot be resolved or installed; the message is mostly uv's or npm's."""


class PackageFile(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One file as the build announces it."""

    path: str
    size_bytes: int
    executable: bool


def check_files(files: Sequence[PackageFile], limit_mib: int) -> None:
    """Check the announced files before any of them is written.

    Raises:
        BuildFailed: there are too many, they are too large, or a path leaves its folder.
    """
    if len(files) > FILES_LIMIT:
        raise BuildFailed(f"the dependencies have {len(files)} files; at most {FILES_LIMIT} are allowed")
    for file in files:
        parts = file.path.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in file.path or file.size_bytes < 0:
            raise BuildFailed(
                f"the build announced a file at an unsafe path or of an invalid size: {file.path[:200]!r}"
            )
        if len(file.path.encode("utf-8", "surrogatepass")) > PATH_LIMIT_BYTES:
            raise BuildFailed(f"the path {file.path[:80]!r}… is longer than {PATH_LIMIT_BYTES} bytes")
    total_mib = sum(file.size_bytes for file in files) / MIB
    if total_mib > limit_mib:
        raise BuildFailed(
            f"the dependencies take {total_mib:.0f} MiB once installed; at most {limit_mib} are allowed"
            " (SANDLOT_PACKAGES_LIMIT_MIB)"
        )


class TreeWriter:
    """A context manager that splits one stream of bytes into the announced files."""

    def __init__(self, folder: Path, files: Sequence[PackageFile]) -> None:
        self._folder = folder
        self._files = iter(files)
        self._file: IO[bytes] | None = None
        self._left_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def feed(self, chunk: bytes) -> int:
        """Write the next bytes and return their number, which is at least 1.

        Args:
            chunk: a JSON string with base64 in it.

        Raises:
            BuildFailed: the chunk is malformed or empty, or exceeds what was announced.
        """
        try:
            content = base64.b64decode(msgspec.json.decode(chunk, type=str), validate=True)
        except (msgspec.MsgspecError, ValueError) as error:
            raise BuildFailed(f"the build sent malformed file content: {error}") from error
        if not content:
            raise BuildFailed("the build sent less than it announced")
        rest = memoryview(content)
        while rest:
            if self._file is None or not self._left_bytes:
                if not self._open_next():
                    raise BuildFailed("the build sent more than it announced")
                continue
            written = self._file.write(rest[: self._left_bytes])
            self._left_bytes -= written
            rest = rest[written:]
        return len(content)

    def finish(self) -> None:
        """Make the empty files that remain at the end.

        Raises:
            BuildFailed: bytes are missing.
        """
        while not self._left_bytes:
            if not self._open_next():
                return
        raise BuildFailed("the build sent less than it announced")

    def _open_next(self) -> bool:
        """Open the next announced file; False if there is none left."""
        if self._file is not None:
            self._file.close()
            self._file = None
        entry = next(self._files, None)
        if entry is None:
            return False
        path = self._folder / entry.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")
        except (FileExistsError, NotADirectoryError) as error:
            raise BuildFailed(f"the build announced {entry.path[:200]!r} twice, or as a file and a folder") from error
        path.chmod(0o555 if entry.executable else 0o444)
        self._left_bytes = entry.size_bytes
        return True
