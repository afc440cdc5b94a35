"""A name for a version that can be moved, and which of several versions a call goes to.

Knows: names, weights, the choice. Does not know: where an alias is stored, which versions there are.
An alias is not signed: it chooses between versions that are, just as the function's latest number does.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from sandlot.errors import CallerError, UnsafeRecord
from sandlot.functions.version import Version
from sandlot.models import LATEST

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


class Shared(msgspec.Struct, frozen=True):
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


def read_alias(text: bytes, function: str) -> Alias:
    """
    Raises:
        UnsafeRecord: that is no alias; somebody else wrote it.
    """
    try:
        return msgspec.json.decode(text, type=Alias)
    except msgspec.MsgspecError as error:
        raise UnsafeRecord(f"an alias of {function!r} in Redis cannot be read: {error}") from error
