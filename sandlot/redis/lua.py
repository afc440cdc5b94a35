"""Load the Lua scripts that Redis runs, and address each by its SHA-1."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from sandlot.redis.keys import lua_locals


@dataclass(frozen=True, slots=True)
class Script:
    """One script: `text` for EVAL and SCRIPT LOAD, `sha` for EVALSHA."""

    name: str
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """Build a script of `scripts/jobs`: its flags, the key names, `prelude.lua`, then its own text.

    The flags (`#!lua flags=…`) must be the first line (EVAL scripts, redis.io).
    """
    own, shared = _read("jobs", name), _read("jobs", "prelude")
    flags, _, body = own.partition("\n")
    text = f"{flags}\n{lua_locals()}\n{shared}\n{body}"
    # EVALSHA addresses a script by its SHA-1 (EVALSHA, redis.io); the digest protects nothing.
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def function_script(*names: str) -> str:
    """Join the texts of scripts of `scripts/functions` for redis-py's `register_script`; a fragment
    comes first."""
    return "".join(_read("functions", name) for name in names)


def _read(package: str, name: str) -> str:
    return resources.files("sandlot.redis").joinpath("scripts", package, f"{name}.lua").read_text(encoding="utf-8")
