"""Commands of an operator: `sandlot redis-acl`, `secret`, `key` and `audit`.

`secret` goes through the API. `key` writes to Redis directly, so that a first key can be made
without one. It needs the signing key, and records what it did in the audit log.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from sandlot.cli.options import AsJson, Url, find_data_dir, open_client
from sandlot.cli.output import new_table, note, print_json, print_table
from sandlot.errors import CallerError, InvalidSettings

if TYPE_CHECKING:
    from sandlot.api_keys import ApiKey, KeyStore
    from sandlot.audit_log import Entry
    from sandlot.redis.acl import Role

_Result = TypeVar("_Result")
_HOUR_S: Final = 3600
_DAY_S: Final = 24 * _HOUR_S
_KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id: the 16 digits after sk_.")]
_Prefix = Annotated[str, typer.Option(help="Only for functions whose names begin with this prefix.")]

secrets = typer.Typer(help="Set, list and delete secrets.", no_args_is_help=True, rich_markup_mode="rich")
keys = typer.Typer(help="Create, rotate, list and revoke API keys.", no_args_is_help=True, rich_markup_mode="rich")
audits = typer.Typer(help="Verify the audit log.", no_args_is_help=True, rich_markup_mode="rich")


def redis_acl(
    aclfile: Annotated[
        bool,
        typer.Option("--aclfile", help="Print a complete ACL file, in which the default user may only PING."),
    ] = False,
    passwords: Annotated[
        bool, typer.Option("--passwords", help="Read the passwords from stdin: one line `ROLE PASSWORD` per role.")
    ] = False,
) -> None:
    """Print Redis or Valkey users for Sandlot, one per role, with no more rights than each needs.

    The roles are api, worker, admin and metrics.
    ACL SETUSER commands with hashes of the passwords go to stdout.
    New passwords are generated and shown once, on stderr.

    [bold]Examples:[/]
      sandlot redis-acl | valkey-cli -h 10.0.0.5
      sandlot redis-acl --aclfile > /etc/valkey/users.acl
    """
    from secrets import token_hex

    from sandlot.redis.acl import DEFAULT_USER, Role, user_name, user_rules

    chosen = _read_passwords(sys.stdin) if passwords else {role: token_hex(32) for role in Role}
    rules = [user_rules(role, chosen[role]) for role in Role]
    if aclfile:
        print("\n".join([DEFAULT_USER, *(f"user {rule}" for rule in rules)]))
    else:
        for rule in rules:
            name, _, rest = rule.partition(" ")
            print(f"ACL SETUSER {name} reset {rest}")
        note("the default user is unchanged: if it needs no password, anyone can still do everything")
    if not passwords:
        for role in Role:
            note(f"{role:<8} redis://{user_name(role)}:{chosen[role]}@HOST:6379/0")


@secrets.command("set")
def set_secret(
    name: Annotated[str, typer.Argument(help="Name of the secret and of its environment variable: DB_PASSWORD.")],
    prefix: _Prefix = "",
    url: Url = None,
) -> None:
    """Set a secret to a value that is typed at a prompt or read from stdin.

    Functions that name the secret see the new value from their next call on.

    [bold]Example:[/] sandlot secret set DB_PASSWORD < password.txt
    """
    # Never an argument: arguments show in `ps` and in the shell's history.
    if sys.stdin.isatty():
        from getpass import getpass

        value = getpass(f"value of {name}: ")
    else:
        value = sys.stdin.read().rstrip("\r\n")
    with open_client(url) as client:
        client.set_secret(name, value, prefix=prefix)
    print(f"{name} is set")


@secrets.command("list")
def list_secrets(url: Url = None, as_json: AsJson = False) -> None:
    """List the names of all secrets; values cannot be read back."""
    with open_client(url) as client:
        found = client.secrets()
    if as_json:
        print_json(found)
        return
    if not found:
        note("there are no secrets; set one with: sandlot secret set NAME")
        return
    table = new_table("NAME", "FUNCTIONS", "SET")
    for secret in found:
        table.add_row(secret["name"], f"{secret['prefix']}…" if secret["prefix"] else "all", secret["updated_at"])
    print_table(table)


@secrets.command("delete")
def delete_secret(name: Annotated[str, typer.Argument(help="Name of the secret.")], url: Url = None) -> None:
    """Delete a secret; functions that name it cannot start until it is set again."""
    with open_client(url) as client:
        client.delete_secret(name)
    print(f"{name} is deleted")


@keys.command("create")
def create_key(
    scope: Annotated[list[str], typer.Option(help="deploy, invoke, read or admin. Repeatable.")],
    prefix: _Prefix = "",
    owner: Annotated[
        str, typer.Option(help="Owner of its jobs: keys of one owner see each other's jobs, other keys do not.")
    ] = "",
    note_text: Annotated[str, typer.Option("--note", help="A reminder of what the key is for.")] = "",
    days: Annotated[int, typer.Option(min=0, help="Days until the key expires (0: never).")] = 0,
) -> None:
    """Create a key and print it. It is shown only this once.

    [bold]Example:[/] sandlot key create --scope invoke --prefix shop- --note "the web shop"
    """
    from sandlot.api_keys import DEFAULT_OWNER, Scope

    unknown = [given for given in scope if given not in list(Scope)]
    if unknown:
        raise CallerError(f"{unknown[0]!r} is not a valid scope; the scopes are: {', '.join(Scope)}")
    chosen = [Scope(given) for given in scope]
    token, key = _with_key_store(
        lambda store: store.create(
            chosen, owner=owner or DEFAULT_OWNER, prefix=prefix, lifetime_s=days * _DAY_S, note=note_text
        ),
        lambda created: _audit_entry("key-create", created[1]),
    )
    _print_new_key(token, key)


@keys.command("rotate")
def rotate_key(
    key_id: _KeyId,
    overlap: Annotated[int, typer.Option(min=0, metavar="HOURS", help="Hours for which the old key still works.")] = 24,
) -> None:
    """Create a key that replaces another one, with the same scopes, prefix and owner.

    [bold]Example:[/] sandlot key rotate f325692e45eb4db2 --overlap 1
    """
    token, key = _with_key_store(
        lambda store: store.rotate(key_id.removeprefix("sk_"), overlap * _HOUR_S),
        lambda created: _audit_entry("key-rotate", created[1], replaces=key_id),
    )
    _print_new_key(token, key)
    when = f"{overlap} hour{'s' if overlap > 1 else ''} from now" if overlap else "now"
    note(f"the old key stops working {when}")


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys; their secrets are not stored and cannot be shown."""
    from msgspec import to_builtins

    found = _with_key_store(lambda store: store.list())
    if as_json:
        print_json([{name: value for name, value in to_builtins(key).items() if name != "digest"} for key in found])
        return
    table = new_table("ID", "SCOPES", "PREFIX", "OWNER", "STATE", "CREATED", "NOTE")
    for key in found:
        scopes = ", ".join(sorted(key.scopes))
        table.add_row(key.id, scopes, key.prefix, key.owner, _key_state(key), _format_day(key.created_ms), key.note)
    print_table(table)


@keys.command("revoke")
def revoke_key(key_id: _KeyId) -> None:
    """Revoke a key. Every API process refuses it within a second."""
    key = _with_key_store(
        lambda store: store.revoke(key_id.removeprefix("sk_")), lambda key: _audit_entry("key-revoke", key)
    )
    print(f"key {key.id} is revoked")


@audits.command("verify")
def verify_audit(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Log files, oldest first (default: the log that is configured)."),
    ] = None,
) -> None:
    """Verify that no record of the audit log was changed, removed or inserted.

    It prints the last record's hash. Keep it elsewhere to detect a log that was rewritten.

    [bold]Example:[/] sandlot audit verify audit.jsonl.1 audit.jsonl
    """
    from sandlot.audit_log import verify
    from sandlot.settings import load_settings

    if not files:
        settings = load_settings()
        log = settings.model_copy(update={"data": find_data_dir(settings).path}).audit_file
        if log is None:
            raise CallerError("SANDLOT_AUDIT is off, so no audit log is written here; name the file to verify")
        files = [log]
    head = verify(files)
    print(f"{head.n} records, none changed, removed or inserted; the last one has the hash {head.hash}")


def _read_passwords(lines: Iterable[str]) -> Mapping[Role, str]:
    from sandlot.redis.acl import Role

    found: dict[Role, str] = {}
    for line in filter(None, (line.strip() for line in lines)):
        name, _, password = line.partition(" ")
        if name not in list(Role):
            raise CallerError(
                f"{name[:20]!r} is not a valid role; write lines of ROLE PASSWORD to stdin, with the roles: "
                f"{', '.join(Role)}"
            )
        if found.setdefault(Role(name), password.strip()) != password.strip():
            raise CallerError(f"{name} has two passwords on stdin")
    missing = [role for role in Role if role not in found]
    if missing:
        raise CallerError(f"stdin has no password for: {', '.join(missing)}")
    return found


def _with_key_store(
    use: Callable[[KeyStore], Awaitable[_Result]], entry: Callable[[_Result], Entry] | None = None
) -> _Result:
    """Open the key store of the configured or running Redis, use it, and close it.

    Args:
        entry: makes the audit log's entry from the result; without it, nothing is recorded.

    Raises:
        InvalidSettings: no Redis is configured and none runs here, or the signing key cannot be
            read.
    """
    import asyncio

    from sandlot.audit_log import AuditLog
    from sandlot.settings import load_settings
    from sandlot.transport_security import require_safe_redis

    settings = load_settings()
    data = find_data_dir(settings)
    # The nearest data folder wins over the default of the settings, so that the command works in
    # subfolders.
    settings = settings.model_copy(update={"data": data.path})
    running = data.running()
    url = require_safe_redis(settings) or (running.redis_url if running else "")
    if not url:
        raise InvalidSettings("no Redis to keep keys in: set SANDLOT_REDIS_URL, or start sandlot up in this folder")
    signing_key = settings.read_signing_key()
    audit = None if settings.audit_file is None else AuditLog(settings.audit_file)

    async def open_and_use() -> _Result:
        from sandlot.api_keys import KeyStore
        from sandlot.redis.connection import connect
        from sandlot.redis.schema import check_schema

        client = connect(url)
        try:
            await check_schema(client.execute_command)
            result = await use(KeyStore(client, signing_key))
            if audit is not None and entry is not None:
                audit.write(entry(result))
            return result
        finally:
            await client.aclose()

    return asyncio.run(open_and_use())


def _audit_entry(action: str, key: ApiKey, replaces: str = "") -> Entry:
    from getpass import getuser

    from sandlot.audit_log import Entry

    target = f"{key.id} for {replaces}" if replaces else key.id
    return Entry(action=action, outcome="ok", who=getuser(), target=target, source="command")


def _print_new_key(token: str, key: ApiKey) -> None:
    print(token)
    note(f"key {key.id}: {', '.join(sorted(key.scopes))}; it is not stored and will not be shown again")


def _key_state(key: ApiKey) -> str:
    from datetime import UTC, datetime

    if key.revoked_ms:
        return "revoked"
    if key.expires_ms:
        is_valid = key.expires_ms > datetime.now(UTC).timestamp() * 1000
        return f"until {_format_day(key.expires_ms)}" if is_valid else "expired"
    return "valid"


def _format_day(epoch_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(epoch_ms / 1000, UTC).date().isoformat()
