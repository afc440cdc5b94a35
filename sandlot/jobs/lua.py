"""The scripts that move jobs, as Redis gets them.

Knows: where their texts are, how each is put together, its SHA-1. Does not know: connections, arguments.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from sandlot.jobs.keys import lua_locals


@dataclass(frozen=True, slots=True)
class Script:
    """One script: `text` for EVAL and SCRIPT LOAD, `sha` for EVALSHA."""

    name: str
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script of that name: its flags, the key names, the shared transitions, its own text, in this order."""
    folder = resources.files("sandlot.jobs").joinpath("scripts")
    own = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    shared = folder.joinpath("transitions.lua").read_text(encoding="utf-8")
    flags, _, body = own.partition("\n")
    text = f"{flags}\n{lua_locals()}\n{shared}\n{body}"
    # SHA-1 is what EVALSHA addresses a script by (EVALSHA, redis.io); nothing is protected by it.
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
