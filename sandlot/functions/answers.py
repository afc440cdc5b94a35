"""What the registry answers.

Knows: versions, aliases. Does not know: where they are recorded.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sandlot.functions.alias import Alias
from sandlot.functions.version import Version


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """What a deploy did. `created`: there was no function of that name before; `changed`: there was no such version before."""

    version: Version
    created: bool
    changed: bool
    revision: str = ""
    active: bool = True
    """False: its dependencies are to be resolved first, and what `$LATEST` meant it still means."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A version that cannot be called: its dependencies are being resolved (`pending`), or cannot be had (`failed`, and why)."""

    version: Version
    state: Literal["pending", "failed"]
    reason: str = ""
    progress: str = ""


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """A function: what `$LATEST` means, every version that is kept, newest first, and the aliases. With each change it has another revision."""

    latest: Version | None
    """None: no version was ever complete."""
    versions: tuple[Version, ...]
    aliases: dict[str, Alias] = {}
    revision: str = ""
    waiting: tuple[Waiting, ...] = ()
    """Newest first."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Functions in the order of their names; `next` is the cursor of the page after this one."""

    functions: tuple[Version | Waiting, ...]
    """What each name means, or is to mean: a function whose first version is not complete has none that can be called."""
    next: str | None
