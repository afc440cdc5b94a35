"""One version of a function, and the signed text that Redis keeps of it.

Knows: the record's fields and its signature. Does not know: keys, scripts, when a record is read.
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


def build_inputs(manifest: Manifest) -> tuple[str, tuple[str, ...], bool]:
    """All that a resolver looks at: where it runs, what is asked for, and how it may come."""
    return placement_of(manifest), manifest.dependencies, manifest.source_builds


def sign_version(version: Version, signing_key: bytes) -> bytes:
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


def verify_version(signed: bytes, function: str, signing_key: bytes) -> Version:
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


ALIAS_NAME: Final = re.compile(r"^[a-z][a-z0-9-]{0,62}$")
"""Never only digits, so that it cannot be mistaken for a version's number."""
WEIGHTS_LIMIT: Final = 10


class Alias(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`version` takes every call that `weights` (a version's number -> its share, between 0 and 1) sends nowhere else."""

    version: int
    weights: dict[int, float] = {}

    def numbers(self) -> list[int]:
        """Every version it may mean."""
        return sorted({self.version, *self.weights})

    def choose(self, key: str) -> int:
        """The version for a call with this key, always the same one.

        The first 8 bytes of the key's SHA-256 are a point between 0 and 1; the shares lie there side by side, in the order of the
        versions' numbers, and `version` has the rest.
        """
        point = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
        for number in sorted(self.weights):
            point -= self.weights[number]
            if point < 0:
                return number
        return self.version


class WeightedAlias(msgspec.Struct, frozen=True):
    """An alias with weights, and the versions it chooses from."""

    name: str
    alias: Alias
    versions: dict[int, Version]

    def choose(self, key: str) -> Version:
        return self.versions[self.alias.choose(f"{self.versions[self.alias.version].function}:{self.name}:{key}")]


def check_alias(name: str, alias: Alias) -> None:
    """
    Raises:
        CallerError: nobody may write such an alias; the message says why.
    """
    if name != LATEST and not ALIAS_NAME.match(name):
        raise CallerError(
            f"{name[:80]!r} is no name for an alias: write a letter, then up to 62 lower-case letters, digits and hyphens"
        )
    if name == LATEST and alias.weights:
        raise CallerError(f"{LATEST} means one version; share calls between versions with an alias of your own")
    if len(alias.weights) > WEIGHTS_LIMIT:
        raise CallerError(f"weights: {len(alias.weights)} versions; at most {WEIGHTS_LIMIT} may share calls")
    for number, share in alias.weights.items():
        if number == alias.version:
            raise CallerError(f"weights: version {number} has the calls that the others leave; do not weigh it as well")
        if not 0 < share < 1:  # NaN is neither
            raise CallerError(f"weights: the share of version {number} is {share}; write one between 0 and 1")
    if sum(alias.weights.values()) > 1:
        raise CallerError(f"weights: the shares add up to {sum(alias.weights.values()):g}, which is more than 1")


def parse_alias(text: bytes, function: str) -> Alias:
    """
    Raises:
        UnsafeRecord: that is no alias; somebody else wrote it.
    """
    try:
        return msgspec.json.decode(text, type=Alias)
    except msgspec.MsgspecError as error:
        raise UnsafeRecord(f"an alias of {function!r} in Redis cannot be read: {error}") from error


class DeployResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a deploy did. `created`: there was no function of that name before; `changed`: there was no such version before."""

    version: Version
    created: bool
    changed: bool
    revision: str = ""
    active: bool = True
    """False: its dependencies are to be resolved first, and what `$LATEST` meant it still means."""


class PendingVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version that cannot be called: its dependencies are being resolved (`pending`), or cannot be had (`failed`, and why)."""

    version: Version
    state: Literal["pending", "failed"]
    reason: str = ""
    progress: str = ""


class FunctionDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A function: what `$LATEST` means, every version that is kept, newest first, and the aliases. With each change it has another revision."""

    latest: Version | None
    """None: no version was ever complete."""
    versions: tuple[Version, ...]
    aliases: dict[str, Alias] = {}
    revision: str = ""
    pending: tuple[PendingVersion, ...] = ()
    """Newest first."""


class FunctionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Functions in the order of their names; `next` is the cursor of the page after this one."""

    functions: tuple[Version | PendingVersion, ...]
    """What each name means, or is to mean: a function whose first version is not complete has none that can be called."""
    next: str | None
