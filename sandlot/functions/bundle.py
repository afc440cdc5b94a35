"""The files of a version, and the one form of bytes they are stored, digested and carried in.

Knows: safe relative paths, limits, the deterministic serialisation. Does not know: where the bytes are kept, or what the files mean.
"""

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
"""Bundles live in Redis's memory (compressed), once per version: code and small data."""
PATH_LIMIT_BYTES: Final = 255
DEPTH_LIMIT: Final = 16

_FORMAT: Final = 1
_DIGITS: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Relative POSIX paths and their contents; checked when built, so whoever holds one may write it to disk."""

    files: Mapping[str, bytes]

    def __post_init__(self) -> None:
        """Raises InvalidManifest, naming the entry, for a path that could leave its folder or a limit that is passed."""
        if len(self.files) > FILES_LIMIT:
            raise InvalidManifest(f"the function has {len(self.files)} files; at most {FILES_LIMIT} are allowed")
        total = sum(map(len, self.files.values()))
        if total > TOTAL_LIMIT_BYTES:
            raise InvalidManifest(
                f"the function's files have {total} bytes together; at most {TOTAL_LIMIT_BYTES} are allowed"
            )
        folders = {str(parent) for path in self.files for parent in PurePosixPath(path).parents}
        for path in self.files:
            _check_path(path)
            if path in folders:
                raise InvalidManifest(f"{path!r} is both a file and a folder")
        object.__setattr__(self, "files", MappingProxyType(dict(sorted(self.files.items()))))


def check_names(names: Iterable[str]) -> None:
    """The names of files that arrive one by one, before a mapping would hide that two are the same.

    Raises:
        InvalidManifest: one is there twice, or twice on a machine whose file system does not tell letter case or accents' forms apart.
    """
    seen: dict[str, str] = {}
    for name in names:
        _check_path(name)
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise InvalidManifest(
                f"{name!r} is there twice"
                if seen[folded] == name
                else f"{name!r} and {seen[folded]!r} are there: letter case does not tell files apart everywhere, so they are the same twice"
            )
        seen[folded] = name


def pack(bundle: Bundle, manifest: Manifest) -> bytes:
    """Manifest and files as MessagePack; equal versions give equal bytes, so the digest of these bytes is the version's digest."""
    return msgspec.msgpack.encode((_FORMAT, manifest.canonical(), list(bundle.files.items())))


def unpack(packed: bytes) -> tuple[Bundle, Manifest]:
    """What `pack` packed.

    Raises:
        UnsafeRecord: the bytes are not such a bundle.
        InvalidManifest: they are, but name a file that no bundle may have.
    """
    try:
        version, manifest, files = msgspec.msgpack.decode(packed, type=tuple[int, bytes, list[tuple[str, bytes]]])
        if version != _FORMAT:
            raise UnsafeRecord(f"this bundle has format {version}; this release reads format {_FORMAT}")
        return Bundle(dict(files)), Manifest.model_validate_json(manifest)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnsafeRecord(f"a stored bundle cannot be read: {error}") from error


def digest_of(packed: bytes) -> str:
    """SHA-256 in lower-case hex."""
    return hashlib.sha256(packed).hexdigest()


def is_digest(text: str) -> bool:
    """Whether this is a digest and therefore safe in a key or a file name."""
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
