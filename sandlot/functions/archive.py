"""Zip archives of functions, read and written.

Archives are hostile input. Nothing is ever extracted to disk: entries are read into memory, and
their size is counted as they are inflated.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from sandlot.errors import InvalidManifest
from sandlot.functions.bundle import FILES_LIMIT, TOTAL_LIMIT_BYTES, Bundle, check_names
from sandlot.functions.manifest import Manifest
from sandlot.functions.manifest_text import toml_text
from sandlot.functions.source import MANIFEST_FILE, function_name, is_left_out, read_files, read_path

RATIO_LIMIT: Final = 100
"""Code compresses to a fifth, logs to a twentieth; deflate can reach a factor of 1,032."""
RATIO_FREE_BYTES: Final = 8 * 1024 * 1024
"""Inflated size that any archive may have, however small it is: a file of zeros is not
an attack."""
_ENCRYPTED: Final = 1
"""Bit in the flags of an entry (APPNOTE.TXT 4.4.4)."""
_UNREADABLE: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(NotImplementedError, RuntimeError, OSError, ValueError, LookupError),
)
"""Exceptions that some release of zipfile raises for bytes that are not an archive."""
_READ_BYTES: Final = 256 * 1024
_DIRECTORY_ENTRY: Final = b"PK\x01\x02"
_DIRECTORY_LIMIT: Final = 10 * FILES_LIMIT
"""Upper limit of directory signatures, which also occur in archives inside the archive; this many
take about 50 MB."""


def read_archive(
    archive: bytes, manifest: Mapping[str, Any] | None = None, *, node: Path | None = None
) -> tuple[Bundle, Manifest]:
    """Return the function in this zip, laid out as in a folder, with the same files left out.

    Raises:
        InvalidManifest: the bytes are not a zip, an entry is not allowed in a bundle (the message
            names it), or the files are not a valid function.
    """
    return read_files(_entries(archive), manifest, node=node)


def read_function(path: Path, *, node: Path | None = None) -> tuple[str, Bundle, Manifest]:
    """Read a function as `read_path` does, or from a zip.

    The file name of a zip gives the function's name.

    Raises:
        InvalidManifest: it is not a valid function; the message names the file.
    """
    if path.suffix != ".zip" or not path.is_file():
        return read_path(path, node=node)
    name = function_name(path.with_suffix(""))
    try:
        return name, *read_archive(path.read_bytes(), node=node)
    except InvalidManifest as error:
        raise InvalidManifest(f"{path.name}: {error.message}") from error
    except OSError as error:
        raise InvalidManifest(f"{path}: cannot be read: {error.strerror}") from error


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of these files that `read_archive` reads; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            # Without a fixed date, the same files would give different bytes every two seconds.
            archive.writestr(zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0)), files[path], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def write_version(bundle: Bundle, manifest: Manifest) -> bytes:
    """Return a version as a zip: its files, and its settings in function.toml.

    Deployed again, it is the same version.
    """
    return write_archive({**bundle.files, MANIFEST_FILE: toml_text(manifest).encode()})


def _entries(archive: bytes) -> dict[str, bytes]:
    # zipfile reads the whole directory into memory, so count its entries by their signature first.
    if archive.count(_DIRECTORY_ENTRY) > _DIRECTORY_LIMIT:
        raise InvalidManifest(
            f"the archive has more than {_DIRECTORY_LIMIT} entries; at most {FILES_LIMIT} are allowed"
        )
    files: dict[str, bytes] = {}
    remaining = TOTAL_LIMIT_BYTES
    inflated_limit = max(RATIO_FREE_BYTES, RATIO_LIMIT * len(archive))
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = opened.infolist()
            if len(entries) > FILES_LIMIT:
                raise InvalidManifest(f"the archive has {len(entries)} entries; at most {FILES_LIMIT} are allowed")
            _refuse_special(entries)
            for entry in entries:
                if not entry.is_dir() and not is_left_out(PurePosixPath(entry.filename)):
                    content = _read_entry(opened, entry, remaining, inflated_limit - (TOTAL_LIMIT_BYTES - remaining))
                    files[entry.filename] = content
                    remaining -= len(content)
    except _UNREADABLE as error:
        raise InvalidManifest(f"the archive cannot be read: {error}") from error
    return files


def _refuse_special(entries: Sequence[zipfile.ZipInfo]) -> None:
    for entry in entries:
        if not entry.filename:  # zipfile's is_dir() reads the last character
            raise InvalidManifest(f"the archive has an entry without a name ({entry.orig_filename!r})")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
            raise InvalidManifest(
                f"{entry.filename!r} in the archive is neither a file nor a folder; links and devices are not allowed"
            )
        if entry.filename != entry.orig_filename:  # zipfile cuts a name at its first null byte
            raise InvalidManifest(
                f"{entry.orig_filename!r} in the archive contains characters that are not allowed in a path"
            )
        if entry.flag_bits & _ENCRYPTED:
            raise InvalidManifest(f"{entry.filename!r} in the archive is encrypted; create it without a password")
        # Every tool writes these two. The other decoders allocate memory before any byte comes out.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InvalidManifest(
                f"{entry.filename!r} in the archive is compressed by method {entry.compress_type}; only deflate (8) and none (0) are supported"
            )
    try:
        check_names(entry.filename.removesuffix("/") for entry in entries)
    except InvalidManifest as error:
        raise InvalidManifest(f"the archive is refused: {error}") from error


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int, inflated_limit: int) -> bytes:
    """Return an entry's bytes, counted as they are inflated.

    The sizes that an archive states cannot be trusted.
    """
    content = bytearray()
    with archive.open(entry) as stream:
        while chunk := stream.read(_READ_BYTES):
            content += chunk
            if len(content) > limit:
                raise InvalidManifest(
                    f"{entry.filename!r}: with this entry the archive has more than {TOTAL_LIMIT_BYTES} bytes of files; functions are for code and small data"
                )
            if len(content) > inflated_limit:
                raise InvalidManifest(
                    f"{entry.filename!r}: with this entry the archive unpacks to more than {RATIO_LIMIT} times its size, like a zip bomb"
                )
    return bytes(content)
