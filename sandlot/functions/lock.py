"""What a version's dependencies were resolved to, and the signed text that Redis keeps of it.

Knows: the lock's fields, its digest, its signature. Does not know: how dependencies are resolved, keys.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

import msgspec

from sandlot.errors import UnsafeRecord
from sandlot.models import Runtime

LOCK_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""A lock of 100 packages with the hashes of all their files has some 500 KiB."""
_PURPOSE: Final = b"sandlot.lock.1\n"
_SIGNATURE_LENGTH: Final = 64


class Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Packages with their exact versions and hashes, as uv (a requirements file) or npm (`package-lock.json`) writes and reads them."""

    runtime: Runtime
    text: str
    source_builds: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 in lower-case hex: versions with the same lock share what is built from it."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


def seal_lock(lock: Lock, version_digest: str, signing_key: bytes) -> bytes:
    """A signature in hex, for this version alone, then JSON."""
    text = msgspec.json.encode(lock)
    return _signature(text, version_digest, signing_key) + text


def open_lock(sealed: bytes, version_digest: str, signing_key: bytes) -> Lock:
    """The lock of this version.

    Raises:
        UnsafeRecord: it is not there, was not signed with this key, or is another version's.
    """
    signature, text = sealed[:_SIGNATURE_LENGTH], sealed[_SIGNATURE_LENGTH:]
    if not hmac.compare_digest(signature, _signature(text, version_digest, signing_key)):
        raise UnsafeRecord(
            f"the lock of version {version_digest[:12]}… in Redis is not signed with this signing key: deploy the function again"
        )
    try:
        return msgspec.json.decode(text, type=Lock)
    except msgspec.MsgspecError as error:
        raise UnsafeRecord(
            f"the lock of version {version_digest[:12]}… cannot be read by this release: {error}"
        ) from error


def _signature(text: bytes, version_digest: str, signing_key: bytes) -> bytes:
    return hmac.digest(signing_key, _PURPOSE + version_digest.encode() + b"\n" + text, "sha256").hex().encode()
