"""The names of everything Sandlot keeps in Redis.

Knows: every key and channel, RQ's and our own. Does not know: what is stored there.
"""

from __future__ import annotations

from typing import Final

# Functions (written by sandlot.functions.registry alone).

FUNCTIONS: Final = "sandlot:functions"
"""Sorted set, all scores 0: the names of all functions."""

FUNCTIONS_CHANGED: Final = "sandlot:functions:changed"
"""Channel: the name of each function that was deployed or deleted."""


def function(name: str) -> str:
    """Hash: `last` number given, `latest` number; per version `v<number>` signed record, `g<number>` digest, `d<digest>` number."""
    return f"sandlot:function:{name}"


def bundle(digest: str) -> str:
    """String: the packed bundle and manifest whose SHA-256 is the digest."""
    return f"sandlot:bundle:{digest}"


def bundle_users(digest: str) -> str:
    """Set: the functions that have a version with this digest; without any, the bundle expires."""
    return f"sandlot:bundle-users:{digest}"
