"""A function's folder as a zip archive, both ways.

Knows: zip entries and what a hostile one can do. Does not know: manifests, where archives come from.
Nothing is ever extracted to disk: entries are read into memory, each against a counted limit.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sandlot.errors import InvalidManifest
from sandlot.functions.bundle import FILES_LIMIT, TOTAL_LIMIT_BYTES, Bundle
from sandlot.functions.manifest import Manifest
from sandlot.functions.source import read_files


def read_archive(
    archive: bytes, manifest: Mapping[str, Any] | None = None, *, node: Path | None = None
) -> tuple[Bundle, Manifest]:
    """The function in this zip, laid out as in a folder.

    Raises:
        InvalidManifest: it is not a zip, has an entry that no bundle may have (named), or cannot be a function.
    """
    return read_files(_entries(archive), manifest, node=node)


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files that `read_archive` reads; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            # Without a fixed date the same files would make another archive every two seconds.
            archive.writestr(zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0)), files[path], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _entries(archive: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    room = TOTAL_LIMIT_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
            if len(entries) > FILES_LIMIT:
                raise InvalidManifest(f"the archive has {len(entries)} files; at most {FILES_LIMIT} are allowed")
            _refuse_special(entries)
            for entry in entries:
                content = _read(opened, entry, room)
                files[entry.filename] = content
                room -= len(content)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        # zipfile raises RuntimeError for encrypted entries and NotImplementedError for compressions it lacks.
        raise InvalidManifest(f"the archive cannot be read: {error}") from error
    return files


def _refuse_special(entries: Sequence[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise InvalidManifest(
                f"{entry.filename!r} in the archive is a link or a device; only files and folders are allowed"
            )
        if entry.filename.lower() in seen:
            raise InvalidManifest(
                f"{entry.filename!r} is in the archive twice (letter case does not tell files apart everywhere)"
            )
        seen.add(entry.filename.lower())


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, room: int) -> bytes:
    """The entry's bytes, counted as they are inflated: the sizes an archive states are its author's word."""
    with archive.open(entry) as stream:
        content = stream.read(room + 1)
    if len(content) > room:
        raise InvalidManifest(
            f"the archive has more than {TOTAL_LIMIT_BYTES} bytes of files; a function is code and small data"
        )
    return content
