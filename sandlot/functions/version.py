"""Versions and aliases of functions, and their records in Redis.

The record of a version is signed. Aliases are not; the versions that they name are.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final, Literal

import msgspec

from sandlot.errors import CallerError, UnsafeRecord
from sandlot.functions.bundle import is_digest
from sandlot.functions.manifest import Manifest
from sandlot.models import LATEST
from sandlot.placement import placement

ALIAS_NAME: Final = re.compile(r"^[a-z][a-z0-9-]{0,62}$")
"""Starts with a letter, so an alias cannot be mistaken for a version number."""
WEIGHTS_LIMIT: Final = 10
_PURPOSE: Final = b"sandlot.version.1\n"
"""Part of every signature, so that nothing else signed with the same key passes for a version."""
_SIGNATURE_LENGTH: Final = 64


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """Immutable version.

    People use its `number`, programs its `digest`; `placement` names the workers that can run it.
    """

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
    """Return the placement of the workers that can run a manifest.

    They have its runtime and tags.
    """
    return placement(manifest.runtime.value, manifest.tags)


def build_inputs(manifest: Manifest) -> tuple[str, tuple[str, ...], bool]:
    """Return everything that a build depends on.

    That is the placement, the dependencies and whether source builds are allowed.
    """
    return placement_of(manifest), manifest.dependencies, manifest.source_builds


def sign_version(version: Version, signing_key: bytes) -> bytes:
    """Return the record of a version: a signature in hex, then JSON."""
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


def verify_version(signed: bytes, function: str, signing_key: bytes) -> Version:
    """Return the version in this record.

    Raises:
        UnsafeRecord: the record was not signed with this key, belongs to another function or cannot
            be read.
    """
    signature, text = signed[:_SIGNATURE_LENGTH], signed[_SIGNATURE_LENGTH:]
    if not hmac.compare_digest(signature, _signature(text, signing_key)):
        raise UnsafeRecord(
            f"a version of {function!r} in Redis is not signed with this signing key: "
            "either the key was changed (deploy the function again) or another program writes to this Redis"
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


class Alias(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name for one version or several.

    `weights` maps version numbers to shares of the calls, between 0 and 1; `version` gets the
    remaining calls.
    """

    version: int
    weights: dict[int, float] = {}

    def numbers(self) -> list[int]:
        """Return the number of every version that the alias can mean, in order."""
        return sorted({self.version, *self.weights})

    def choose(self, key: str) -> int:
        """Return the version number for a call; equal keys get the same one.

        The first 8 bytes of the key's SHA-256 are a point between 0 and 1. The shares lie side by
        side in the order of the version numbers, and `version` has the rest.
        """
        point = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
        for number in sorted(self.weights):
            point -= self.weights[number]
            if point < 0:
                return number
        return self.version


class WeightedAlias(msgspec.Struct, frozen=True):
    """Alias with weights, and the versions that it chooses from."""

    name: str
    alias: Alias
    versions: dict[int, Version]

    def choose(self, key: str) -> Version:
        """Return the version for a call; equal keys get the same one."""
        return self.versions[self.alias.choose(f"{self.versions[self.alias.version].function}:{self.name}:{key}")]


def check_alias(name: str, alias: Alias) -> None:
    """Check that an alias may be written.

    Raises:
        CallerError: it may not; the message says why.
    """
    if name != LATEST and not ALIAS_NAME.match(name):
        raise CallerError(
            f"{name[:80]!r} is not a valid alias name: use a lowercase letter followed by up to 62 lowercase letters, digits and hyphens"
        )
    if name == LATEST and alias.weights:
        raise CallerError(f"{LATEST} means one version; to split calls between versions, use an alias of another name")
    if len(alias.weights) > WEIGHTS_LIMIT:
        raise CallerError(f"weights: {len(alias.weights)} versions; at most {WEIGHTS_LIMIT} are allowed")
    for number, share in alias.weights.items():
        if number == alias.version:
            raise CallerError(
                f"weights: version {number} gets the calls that the others leave; do not give it a weight as well"
            )
        if not 0 < share < 1:  # also refuses NaN
            raise CallerError(f"weights: the share of version {number} is {share}; it must be between 0 and 1")
    if sum(alias.weights.values()) > 1:
        raise CallerError(f"weights: the shares add up to {sum(alias.weights.values()):g}, which is more than 1")


def parse_alias(text: bytes, function: str) -> Alias:
    """Return the alias in a record.

    Raises:
        UnsafeRecord: the text is not an alias; another program wrote it.
    """
    try:
        return msgspec.json.decode(text, type=Alias)
    except msgspec.MsgspecError as error:
        raise UnsafeRecord(f"an alias of {function!r} in Redis cannot be read: {error}") from error


class DeployResult(msgspec.Struct, frozen=True, kw_only=True):
    """Effect of a deploy. `created`: the function is new. `changed`: the version is new."""

    version: Version
    created: bool
    changed: bool
    revision: str = ""
    active: bool = True
    """False while dependencies must be resolved first; until then `$LATEST` keeps its meaning."""


class PendingVersion(msgspec.Struct, frozen=True, kw_only=True):
    """Version that cannot be called.

    Its dependencies are being resolved (`pending`) or cannot be resolved (`failed`, with the
    reason).
    """

    version: Version
    state: Literal["pending", "failed"]
    reason: str = ""
    progress: str = ""


class FunctionDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a function, whose `revision` changes with every change.

    The versions are those that are kept, newest first.
    """

    latest: Version | None
    """None until the first version is complete."""
    versions: tuple[Version, ...]
    aliases: dict[str, Alias] = {}
    revision: str = ""
    pending: tuple[PendingVersion, ...] = ()
    """Versions that cannot be called, newest first."""


class FunctionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Functions in the order of their names; `next` is the cursor of the following page."""

    functions: tuple[Version | PendingVersion, ...]
    """The latest version of each function, or its pending version as long as none is complete."""
    next: str | None
