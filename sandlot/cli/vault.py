"""`sandlot secret`: a value from stdin or a prompt to the API, names back.

Knows: how a value is read so that it is in no argument and no history. Does not know: what the API does with it.
"""

from __future__ import annotations

import getpass
import sys

from rich.console import Console
from rich.table import Table

from sandlot.cli.access import open_client
from sandlot.cli.output import note, print_json


def put(name: str, prefix: str, url: str | None) -> None:
    value = getpass.getpass(f"value of {name}: ") if sys.stdin.isatty() else sys.stdin.read().rstrip("\r\n")
    with open_client(url) as client:
        client.set_secret(name, value, prefix=prefix)
    print(f"{name} is set")


def print_all(url: str | None, as_json: bool) -> None:
    with open_client(url) as client:
        found = client.secrets()
    if as_json:
        print_json(found)
        return
    if not found:
        note("there are no secrets; set one with: sandlot secret set NAME")
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("NAME", "FUNCTIONS", "SET"):
        table.add_column(heading)
    for secret in found:
        table.add_row(secret["name"], f"{secret['prefix']}…" if secret["prefix"] else "all", secret["updated_at"])
    Console().print(table)


def delete(name: str, url: str | None) -> None:
    with open_client(url) as client:
        client.delete_secret(name)
    print(f"{name} is removed")
