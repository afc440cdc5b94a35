"""Bundles: the files of a version, and the form in which they are stored and digested."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

import msgspec

from sandlot.errors import InvalidManifest, UnsafeRecord
from sandlot.functions.manifest import Manifest

FILES_LIMIT: Final = 10_000
TOTAL_LIMIT_BYTES: Final = 250 * 1024 * 1024
"""Bundles live in Redis's memory (compressed), one per version: they are for code and
small data."""
PATH_LIMIT_BYTES: Final = 255
DEPTH_LIMIT: Final = 16

_FORMAT: Final = 1
_DIGITS: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Relative POSIX paths and the contents of their files.

    Paths are checked on construction, so a bundle is safe to write to disk.
    """

    files: Mapping[str, bytes]

    def __post_init__(self) -> None:
        """Check all paths and limits.

        Raises:
            InvalidManifest: a path could leave the folder, or a limit is exceeded; the message
                names the entry.
        """
        if len(self.files) > FILES_LIMIT:
            raise InvalidManifest(f"the function has {len(self.files)} files; at most {FILES_LIMIT} are allowed")
        total = sum(map(len, self.files.values()))
        if total > TOTAL_LIMIT_BYTES:
            raise InvalidManifest(
                f"the function's files have {total} bytes in total; at most {TOTAL_LIMIT_BYTES} are allowed"
            )
        folders = {str(parent) for path in self.files for parent in PurePosixPath(path).parents}
        for path in self.files:
            _check_path(path)
            if path in folders:
                raise InvalidManifest(f"{path!r} is both a file and a folder")
        object.__setattr__(self, "files", MappingProxyType(dict(sorted(self.files.items()))))


def check_names(names: Iterable[str]) -> None:
    """Check the names of files that arrive one by one, before a mapping would hide duplicates.

    Raises:
        InvalidManifest: a name occurs twice, or would on a file system that ignores letter case or
            the Unicode form of accents.
    """
    seen: dict[str, str] = {}
    for name in names:
        _check_path(name)
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise InvalidManifest(
                f"{name!r} occurs twice"
                if seen[folded] == name
                else f"{name!r} and {seen[folded]!r} both occur: not every file system distinguishes them"
            )
        seen[folded] = name


def pack(bundle: Bundle, manifest: Manifest) -> bytes:
    """Return manifest and files as MessagePack.

    Equal versions give equal bytes; the digest of these bytes is the version's digest.
    """
    return msgspec.msgpack.encode((_FORMAT, manifest.canonical(), list(bundle.files.items())))


def unpack(packed: bytes) -> tuple[Bundle, Manifest]:
    """Return the bundle and the manifest that `pack` packed.

    Raises:
        UnsafeRecord: the bytes are not a packed bundle.
        InvalidManifest: they are, but contain a path that is not allowed in a bundle.
    """
    try:
        format_number, manifest, files = msgspec.msgpack.decode(packed, type=tuple[int, bytes, list[tuple[str, bytes]]])
        if format_number != _FORMAT:
            raise UnsafeRecord(f"this bundle has format {format_number}; this release reads format {_FORMAT}")
        return Bundle(dict(files)), Manifest.model_validate_json(manifest)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnsafeRecord(f"a stored bundle cannot be read: {error}") from error


def digest_of(packed: bytes) -> str:
    """Return the SHA-256 in lowercase hex."""
    return hashlib.sha256(packed).hexdigest()


def is_digest(text: str) -> bool:
    """Return whether the text is a digest and therefore safe in a key or a file name."""
    return len(text) == 64 and _DIGITS.issuperset(text)


def _check_path(path: str) -> None:
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise InvalidManifest(f"{path!r} is not a relative path inside the function's folder")
    if not path.isprintable() or "\\" in path:
        raise InvalidManifest(f"{path!r} has characters that are not allowed in a path (control characters, backslash)")
    if len(path.encode("utf-8", "surrogatepass")) > PATH_LIMIT_BYTES or len(parts) > DEPTH_LIMIT:
        raise InvalidManifest(
            f"{path[:80]!r}… is too long or too deep: at most {PATH_LIMIT_BYTES} bytes and {DEPTH_LIMIT} levels"
        )
