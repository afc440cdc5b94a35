"""The commands of the help's panel "Operate": doctor, keys, secrets, the audit log.

Knows: their options and their help. Does not know: what they do; each is in a file of its own, imported when it runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sandlot.cli.options import AsJson, Url

commands = typer.Typer(rich_markup_mode="rich")
keys = typer.Typer(help="Make, rotate, list and revoke API keys.", no_args_is_help=True, rich_markup_mode="rich")
audits = typer.Typer(help="Judge the audit log.", no_args_is_help=True, rich_markup_mode="rich")
secrets = typer.Typer(help="Set, list and delete secrets.", no_args_is_help=True, rich_markup_mode="rich")


@commands.command(rich_help_panel="Operate")
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: Python, Node, Redis, and whether the sandbox's walls hold. Says what to do about what is wrong.

    Ends with status 4 if functions could not run here.
    """
    from sandlot.cli.doctor import examine

    sys.exit(examine(as_json))


@commands.command("redis-acl", rich_help_panel="Operate")
def redis_acl(
    aclfile: Annotated[
        bool, typer.Option("--aclfile", help="Print a whole ACL file, in which everybody else may only PING.")
    ] = False,
    passwords: Annotated[
        bool, typer.Option("--passwords", help="Read the passwords from stdin, a line `ROLE PASSWORD` for each role.")
    ] = False,
) -> None:
    """Print the users that your Redis or Valkey should have for Sandlot, one for each role.

    They are api, worker, admin and metrics, each with no more rights than it needs. On stdout are ACL SETUSER commands, with hashes of the passwords. The passwords are made here and shown once, on stderr.

    [bold]Examples:[/]
      sandlot redis-acl | valkey-cli -h 10.0.0.5
      sandlot redis-acl --aclfile > /etc/valkey/users.acl
    """
    from sandlot.cli.redis_acl import print_users

    print_users(aclfile, passwords)


@audits.command("verify")
def verify_audit(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Oldest first. By default: the log of these settings."),
    ] = None,
) -> None:
    """Judge whether records of the audit log were changed, removed or put in; prints the hash of the last, to be kept elsewhere.

    [bold]Example:[/] sandlot audit verify audit.jsonl.1 audit.jsonl
    """
    from sandlot.cli.audit import print_judgement

    print_judgement(files or [])


@keys.command("create")
def create_key(
    scope: Annotated[list[str], typer.Option(help="deploy, invoke, read or admin; may be given more than once.")],
    prefix: Annotated[str, typer.Option(help="Only for functions whose names begin so.")] = "",
    owner: Annotated[
        str, typer.Option(help="Whose jobs it sees: keys of one owner share theirs, those of another never see them.")
    ] = "",
    note: Annotated[str, typer.Option(help="Who or what it is for.")] = "",
    days: Annotated[int, typer.Option(min=0, help="Days until it expires (0: never).")] = 0,
) -> None:
    """Make a key and print it, this once.

    [bold]Example:[/] sandlot key create --scope invoke --prefix shop- --note "the web shop"
    """
    from sandlot.cli.api_keys import create

    create(scope, prefix, owner, note, days)


@keys.command("rotate")
def rotate_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The 16 digits after sk_.")],
    overlap: Annotated[int, typer.Option(min=0, metavar="HOURS", help="How long the old key still works.")] = 24,
) -> None:
    """Make a key that replaces another: the same scopes, prefix and owner. The old one goes on working for a while.

    [bold]Example:[/] sandlot key rotate f325692e45eb4db2 --overlap 1
    """
    from sandlot.cli.api_keys import rotate

    rotate(key_id, overlap)


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys; their secrets are stored nowhere and cannot be shown."""
    from sandlot.cli.api_keys import print_all

    print_all(as_json)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID", help="The 16 digits after sk_.")]) -> None:
    """Refuse a key from now on, everywhere within a second."""
    from sandlot.cli.api_keys import revoke

    revoke(key_id)


@secrets.command("set")
def set_secret(
    name: Annotated[str, typer.Argument(help="Its name, which is that of the variable: DB_PASSWORD.")],
    prefix: Annotated[str, typer.Option(help="Only for functions whose names begin so.")] = "",
    url: Url = None,
) -> None:
    """Set a secret to what is typed at a prompt, or read from stdin. Functions that name it get it with their next call.

    [bold]Example:[/] sandlot secret set DB_PASSWORD < password.txt
    """
    from sandlot.cli.vault import put

    put(name, prefix, url)


@secrets.command("list")
def list_secrets(url: Url = None, as_json: AsJson = False) -> None:
    """List the names of all secrets; their values cannot be shown."""
    from sandlot.cli.vault import print_all

    print_all(url, as_json)


@secrets.command("delete")
def delete_secret(name: Annotated[str, typer.Argument(help="Its name.")], url: Url = None) -> None:
    """Delete a secret; functions that name it cannot start until it is set again."""
    from sandlot.cli.vault import delete

    delete(name, url)


commands.add_typer(secrets, name="secret", rich_help_panel="Operate")
commands.add_typer(keys, name="key", rich_help_panel="Operate")
commands.add_typer(audits, name="audit", rich_help_panel="Operate")
