"""ACL rules for Redis or Valkey: one user per role, for APIs, workers, operators and monitors.

No role gets a key that is neither Sandlot's nor RQ's, nor a command of Redis's category
`@dangerous` (CONFIG, KEYS, FLUSHALL, MODULE, ACL, SHUTDOWN, REPLICAOF, MONITOR, DEBUG, MIGRATE, …)
except those that are added by name and only read. Redis applies the same rules to every command
inside a script (ACL, redis.io).
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import Final

from sandlot.errors import CallerError
from sandlot.redis import keys


class Role(StrEnum):
    """A role of a client. The name of its user is `sandlot-` and the role."""

    API = "api"
    WORKER = "worker"
    ADMIN = "admin"
    METRICS = "metrics"


DEFAULT_USER: Final = "user default on nopass nocommands +ping"
"""A line of an ACL file: without a password, a client may PING for health checks and no more."""

_READING: Final = "-@all +@connection +@read +time -@dangerous +info -scan -randomkey"
"""`-@dangerous` removes INFO and KEYS, and INFO is needed; SCAN and RANDOMKEY would show the keys
of others."""
_WORKING: Final = (
    "-@all +@connection +@read +@write +@transaction +@pubsub -@scripting +eval +evalsha +script|load +script|exists +time "
    "-@dangerous +info -scan -randomkey"
)
"""FUNCTION LOAD is in `@write`; `-@scripting` removes it, since Sandlot leaves no library in the
server."""
_COMMANDS: Final = {
    Role.API: _WORKING,
    Role.WORKER: _WORKING,
    Role.ADMIN: f"{_WORKING} +scan +config|get +client|list +slowlog|get +slowlog|len +latency|latest +memory|usage +memory|stats",
    Role.METRICS: _READING,
}

_WORKERS_NEVER_SEE: Final = {keys.API_KEYS, keys.DURABILITY}
_WORKERS_ONLY_READ: Final = {keys.FUNCTIONS, keys.BUNDLE, keys.BUNDLE_USERS, keys.SECRETS}
"""A worker that has resolved dependencies activates the version, which writes the function's hash.
It cannot write code, nor the list of functions."""
_METRICS_READ: Final = {
    keys.QUEUE, keys.QUEUES, keys.STARTED, keys.FINISHED, keys.FAILED, keys.CANCELED, keys.SCHEDULED, keys.RQ_WORKER, keys.RQ_WORKERS,
    keys.RING, keys.CAPS, keys.CAPPED, keys.DEPTH, keys.ENDED, keys.LEASES, keys.DUE, keys.PARKED, keys.BEATS, keys.PLACEMENTS, keys.WORKER,
    keys.FUNCTIONS, keys.BREAKERS, keys.DEAD_LETTERS, keys.REQUEUES,
}  # fmt: skip
"""Counts and names: no events, results, logs, code or secrets."""

_EVERYTHING: Final = "~rq:* ~sandlot:* &rq:* &sandlot:*"
PASSWORD_LENGTH: Final = 16
_PASSWORD: Final = re.compile(r"^[\x21-\x7e]{16,512}$")


def user_name(role: Role) -> str:
    return f"sandlot-{role}"


def rules(role: Role) -> str:
    """Return the keys, channels and commands of a role as ACL SETUSER takes them, always in the
    same order."""
    return f"{_keys_and_channels(role)} {_COMMANDS[role]}"


def user_rules(role: Role, password: str) -> str:
    """Return a user's name and rules as they follow `user` in an ACL file, with the password as its
    SHA-256.

    Raises:
        CallerError: the password is too short or not printable ASCII; the message omits it.
    """
    if not _PASSWORD.match(password):
        raise CallerError(
            f"the password of {role} has {len(password)} characters: it needs {PASSWORD_LENGTH} to 512, printable ASCII without spaces"
        )
    return f"{user_name(role)} on #{hashlib.sha256(password.encode()).hexdigest()} {rules(role)}"


def _keys_and_channels(role: Role) -> str:
    if role is Role.WORKER:
        writable = sorted(_sandlot_keys() - _WORKERS_NEVER_SEE - _WORKERS_ONLY_READ)
        return " ".join(
            [
                "~rq:*",
                *(f"~{_pattern(key)}" for key in writable),
                *_read_only(_WORKERS_ONLY_READ),
                "&rq:*",
                "&sandlot:*",
            ]
        )
    if role is Role.METRICS:
        return " ".join([*_read_only(_METRICS_READ), "%R~rq:workers:*", "resetchannels"])
    return _EVERYTHING


def _sandlot_keys() -> set[str]:
    """Return every key of Sandlot's own. Workers may write a name that is added to `keys` unless it
    is listed above."""
    named = {value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}
    return {value for value in named if value.startswith("sandlot:")}


def _read_only(names: set[str]) -> list[str]:
    return [f"%R~{_pattern(key)}" for key in sorted(names)]


def _pattern(key: str) -> str:
    """Return the key pattern of a name; one that ends with a colon is a prefix."""
    return f"{key}*" if key.endswith(":") else key
