"""The code blocks of a Markdown page, and a shell to run them in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.system.up_process import REPOSITORY, clean_environment
from tests.waiting import HANG_S

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
TUTORIAL = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True)
class Block:
    language: str
    content: str
    before: str
    """The text between the block before and this one."""
    heading: str


def blocks(page: str) -> list[Block]:
    """List the blocks of a page that name a language, in order."""
    parts = re.split(r"(?ms)^```(\w+)\n(.*?)^```\n", page)
    found, heading = [], ""
    for before, language, content in zip(parts[:-1:3], parts[1::3], parts[2::3], strict=True):
        heading = re.findall(r"(?m)^#+ (.+)$", heading + before)[-1]
        found.append(Block(language, content, before, heading))
        heading = f"# {heading}\n"
    return found


def bash(script: str, folder: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"} | extra
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


VALKEY_CLI = """#!{python}
import argparse, sys
import redis
options = argparse.ArgumentParser(add_help=False)
options.add_argument("-h", dest="host")
options.add_argument("-p", dest="port", type=int, default=6379)
given = options.parse_args()
client = redis.Redis(given.host, given.port, decode_responses=True)
for line in sys.stdin:
    print("OK" if client.execute_command(*line.split()) in ("OK", True) else "?")
"""
SCP = """#!/bin/sh
exec cp "{home}/${{1#*:}}" "$2"
"""


def stand_ins(folder: Path) -> dict[str, str]:
    """Write `valkey-cli` and `scp` as far as the README uses them; return a PATH with them.

    The other machine's home is the parent folder.
    """
    folder.mkdir()
    for name, text in (("valkey-cli", VALKEY_CLI), ("scp", SCP)):
        (folder / name).write_text(text.format(python=sys.executable, home=folder.parent))
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}


def with_passwords(text: str, shown: str, address: str = "10.0.0.5:6379") -> str:
    """Put the password that `sandlot redis-acl` showed, and another address, into the block."""
    for user, password in re.findall(r"redis://([\w-]+):(\w+)@HOST", shown):
        text = text.replace(f"//{user}:PASSWORD@", f"//{user}:{password}@")
    return text.replace("10.0.0.5:6379", address)
