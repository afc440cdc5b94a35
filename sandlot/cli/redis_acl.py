"""`sandlot redis-acl`: users for a Redis or Valkey, as the server takes them.

Knows: the two forms a server reads, how passwords come and go. Does not know: what a role may do (`sandlot.redis.acl`).
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable, Mapping

from sandlot.cli.output import note
from sandlot.errors import CallerError
from sandlot.redis.acl import DEFAULT_USER, Role, user_name, user_rules


def print_users(aclfile: bool, from_stdin: bool) -> None:
    """Rules on stdout; passwords that were made here on stderr.

    Raises:
        CallerError: the passwords on stdin are not one for each role, or one cannot be used.
    """
    passwords = _read(sys.stdin) if from_stdin else {role: secrets.token_hex(32) for role in Role}
    rules = [user_rules(role, passwords[role]) for role in Role]
    if aclfile:
        print("\n".join([DEFAULT_USER, *(f"user {rule}" for rule in rules)]))
    else:
        for rule in rules:
            name, _, rest = rule.partition(" ")
            print(f"ACL SETUSER {name} reset {rest}")
        note("the default user is left as it is: whoever may connect without a password still may do everything")
    if not from_stdin:
        for role in Role:
            note(f"{role:<8} redis://{user_name(role)}:{passwords[role]}@HOST:6379/0")


def _read(lines: Iterable[str]) -> Mapping[Role, str]:
    found: dict[Role, str] = {}
    for line in filter(None, (line.strip() for line in lines)):
        name, _, password = line.partition(" ")
        if name not in list(Role):
            raise CallerError(
                f"{name[:20]!r} is no role; a line of stdin is ROLE PASSWORD, with the roles: {', '.join(Role)}"
            )
        if found.setdefault(Role(name), password.strip()) != password.strip():
            raise CallerError(f"{name} has two passwords on stdin")
    missing = [role for role in Role if role not in found]
    if missing:
        raise CallerError(f"stdin has no password for: {', '.join(missing)}")
    return found
