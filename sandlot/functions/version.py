"""One version of a function, and the signed text that Redis keeps of it.

Knows: the record's fields and its signature. Does not know: keys, scripts, when a record is read.
"""

from __future__ import annotations

import hmac
from typing import Final

import msgspec

from sandlot.errors import UnsafeRecord
from sandlot.functions.bundle import is_digest
from sandlot.functions.manifest import Manifest
from sandlot.placement import placement

_PURPOSE: Final = b"sandlot.version.1\n"
"""Goes into every signature, so that no other thing signed with the same key can pass for a version."""
_SIGNATURE_LENGTH: Final = 64


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable version. `number` names it for people, `digest` for machines; `placement` names the workers that can run it."""

    function: str
    number: int
    digest: str
    manifest: Manifest
    placement: str
    created_ms: int


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    function: str
    number: int
    digest: str
    manifest: msgspec.Raw
    placement: str
    created_ms: int


def placement_of(manifest: Manifest) -> str:
    """The workers that can run it: those with the runtime and the tags."""
    return placement(manifest.runtime.value, manifest.tags)


def needs(manifest: Manifest) -> tuple[str, tuple[str, ...], bool]:
    """All that a resolver looks at: where it runs, what is asked for, and how it may come."""
    return placement_of(manifest), manifest.dependencies, manifest.source_builds


def sign(version: Version, signing_key: bytes) -> bytes:
    """The record of this version: a signature in hex, then JSON."""
    record = _Record(
        function=version.function,
        number=version.number,
        digest=version.digest,
        manifest=msgspec.Raw(version.manifest.canonical()),
        placement=version.placement,
        created_ms=version.created_ms,
    )
    text = msgspec.json.encode(record)
    return _signature(text, signing_key) + text


def verify(signed: bytes, function: str, signing_key: bytes) -> Version:
    """The version in this record.

    Raises:
        UnsafeRecord: it was not signed with this key, or belongs to another function.
    """
    signature, text = signed[:_SIGNATURE_LENGTH], signed[_SIGNATURE_LENGTH:]
    if not hmac.compare_digest(signature, _signature(text, signing_key)):
        raise UnsafeRecord(
            f"a version of {function!r} in Redis is not signed with this signing key: "
            "either the key was changed (deploy the function again) or somebody else writes to this Redis"
        )
    try:
        record = msgspec.json.decode(text, type=_Record)
        manifest = Manifest.model_validate_json(bytes(record.manifest))
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnsafeRecord(f"a version of {function!r} in Redis cannot be read by this release: {error}") from error
    if record.function != function or not is_digest(record.digest):
        raise UnsafeRecord(f"a version of {function!r} in Redis is the record of {record.function!r}")
    return Version(
        function=record.function,
        number=record.number,
        digest=record.digest,
        manifest=manifest,
        placement=record.placement,
        created_ms=record.created_ms,
    )


def _signature(text: bytes, signing_key: bytes) -> bytes:
    return hmac.digest(signing_key, _PURPOSE + text, "sha256").hex().encode()
