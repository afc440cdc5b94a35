"""One machine for all systemd tests, set up by the commands of docs/deploy.md.

Needs minutes and root: make test-systemd.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.engine import REPOSITORY, NoEngine, lock, open_engine
from tests.systemd.machine import Machine, boot

collect_ignore_glob = [] if os.environ.get("SANDLOT_TEST_SYSTEMD") else ["test_*.py"]

VALKEY = r"""
sed 's#^bind .*#bind 127.0.0.1#; s#^aclfile .*#aclfile /etc/sandlot/valkey.acl#; s#^dir .*#dir /var/lib/valkey#' deploy/valkey.conf > /etc/valkey.conf
mkdir -p /var/lib/valkey
systemctl start valkey
"""
"""The page leaves it to the reader: paths and `aclfile` adapted."""


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    try:
        made = boot_here(tmp_path_factory.mktemp("machine"))
    except NoEngine as reason:
        pytest.skip(f"no virtual machine here: {reason}")
    try:
        set_up(made)
        yield made
    finally:
        made.close()


def boot_here(folder: Path) -> Machine:
    """The engine is only needed to make the disk."""
    held = lock()
    try:
        engine = open_engine()
        try:
            engine.build_base()
            engine.build_image()
            return boot(engine, folder)
        finally:
            engine.close()
    finally:
        os.close(held)


def documented() -> str:
    text = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"(?ms)^```sh\n(.*?)^```", text.partition("## systemd")[2].partition("\n## ")[0])
    return str(commands)


def set_up(machine: Machine) -> None:
    """Run the block as root in the repository's folder.

    The line that installs Sandlot is left out: the image has it, and the machine has no network.
    """
    lines = [line for line in documented().splitlines() if "pip install" not in line]
    secrets, units = "\n".join(lines).split("install -m 0644", 1)
    start = "set -eu\nexport PATH=/usr/sbin:/sbin:$PATH\ncd /srv/sandlot\n"
    machine.run(start + secrets + VALKEY)
    services, _, look = ("install -m 0644" + units).partition("SANDLOT_REDIS_URL_FILE=")
    machine.run(start + services)
    machine.until("python3 /usr/local/lib/ask.py GET /readyz", limit_s=300)
    machine.run(f"{start}SANDLOT_REDIS_URL_FILE={look} > /tmp/doctor; cat /tmp/doctor", limit_s=300)
