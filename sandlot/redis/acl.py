"""Users for Redis or Valkey, one for each role: what an API, a worker, an operator and a monitor may do there.

Knows: which keys, channels and commands each of them needs. Does not know: how a server is told, where passwords are kept.

Nobody gets a command that Redis calls dangerous (CONFIG, KEYS, FLUSHALL, MODULE, ACL, SHUTDOWN, REPLICAOF, MONITOR, DEBUG, MIGRATE, …) beyond
those that are added by name and only read, nor a key that is neither Sandlot's nor RQ's. Redis asks the same of every call inside a script.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import Final

from sandlot.errors import CallerError
from sandlot.redis import keys


class Role(StrEnum):
    """Who connects. The user's name is `sandlot-` and this."""

    API = "api"
    WORKER = "worker"
    ADMIN = "admin"
    METRICS = "metrics"


DEFAULT_USER: Final = "user default on nopass nocommands +ping"
"""Of an ACL file: health checks may PING without a password, and nobody may do more."""

_READING: Final = "-@all +@connection +@read +time -@dangerous +info -scan -randomkey"
"""`-@dangerous` takes INFO and KEYS away, and INFO is wanted; SCAN and RANDOMKEY would name keys that are not ours."""
_WORKING: Final = (
    "-@all +@connection +@read +@write +@transaction +@pubsub -@scripting +eval +evalsha +script|load +script|exists +time "
    "-@dangerous +info -scan -randomkey"
)
"""FUNCTION LOAD counts as a write: a library that stays in the server is not ours to put there."""
_COMMANDS: Final = {
    Role.API: _WORKING,
    Role.WORKER: _WORKING,
    Role.ADMIN: f"{_WORKING} +scan +config|get +client|list +slowlog|get +slowlog|len +latency|latest +memory|usage +memory|stats",
    Role.METRICS: _READING,
}

_WORKERS_NEVER_SEE: Final = {keys.API_KEYS, keys.DURABILITY}
_WORKERS_ONLY_READ: Final = {keys.FUNCTIONS, keys.BUNDLE, keys.BUNDLE_USERS, keys.SECRETS}
"""A worker that has resolved dependencies makes the version active, which writes to the function; no code can be put there, nor a list of them."""
_METRICS_READ: Final = {
    keys.QUEUE, keys.QUEUES, keys.STARTED, keys.FINISHED, keys.FAILED, keys.CANCELED, keys.SCHEDULED, keys.RQ_WORKER, keys.RQ_WORKERS,
    keys.RING, keys.CAPS, keys.CAPPED, keys.DEPTH, keys.ENDED, keys.LEASES, keys.DUE, keys.PARKED, keys.BEATS, keys.PLACEMENTS, keys.WORKER,
    keys.FUNCTIONS, keys.BREAKERS, keys.DEAD_LETTERS, keys.REQUEUES,
}  # fmt: skip
"""Counts and names: no event, no result, no log, no code, no secret."""

_EVERYTHING: Final = "~rq:* ~sandlot:* &rq:* &sandlot:*"
PASSWORD_LENGTH: Final = 16
_PASSWORD: Final = re.compile(r"^[\x21-\x7e]{16,512}$")


def user_name(role: Role) -> str:
    return f"sandlot-{role}"


def rules(role: Role) -> str:
    """The keys, channels and commands of a role, in the words of ACL SETUSER; the same order every time."""
    return f"{_reach(role)} {_COMMANDS[role]}"


def user_rules(role: Role, password: str) -> str:
    """Name and rules of a user, as they follow `user` in an ACL file; the password as its SHA-256.

    Raises:
        CallerError: the password is too short, or not printable ASCII; the message does not have it.
    """
    if not _PASSWORD.match(password):
        raise CallerError(
            f"the password of {role} has {len(password)} characters: it needs {PASSWORD_LENGTH} to 512, printable ASCII without spaces"
        )
    return f"{user_name(role)} on #{hashlib.sha256(password.encode()).hexdigest()} {rules(role)}"


def _reach(role: Role) -> str:
    if role is Role.WORKER:
        ours = sorted(_engine_keys() - _WORKERS_NEVER_SEE - _WORKERS_ONLY_READ)
        return " ".join(
            ["~rq:*", *(f"~{_pattern(key)}" for key in ours), *_read(_WORKERS_ONLY_READ), "&rq:*", "&sandlot:*"]
        )
    if role is Role.METRICS:
        return " ".join([*_read(_METRICS_READ), "%R~rq:workers:*", "resetchannels"])
    return _EVERYTHING


def _engine_keys() -> set[str]:
    """Every key of ours; a name that is added to `keys` is the workers' to write unless it is listed above."""
    named = {value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}
    return {value for value in named if value.startswith("sandlot:")}


def _read(some: set[str]) -> list[str]:
    return [f"%R~{_pattern(key)}" for key in sorted(some)]


def _pattern(key: str) -> str:
    """A name that ends with a colon is the beginning of many."""
    return f"{key}*" if key.endswith(":") else key
