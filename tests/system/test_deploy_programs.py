"""The script that makes an operator's secrets, and systemd's parser on the units."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from sandlot.api_keys import new_token
from sandlot.redis.acl import DEFAULT_USER, Role, user_rules
from tests.waiting import HANG_S

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
URLS = {role: f"redis-{role}.url" for role in Role}
NAMES = {"signing.key", "api.key", "metrics.token", "callback.secret", "grafana.password", "valkey.acl", *URLS.values()}


def make_secrets(folder: Path) -> subprocess.CompletedProcess[str]:
    words = [DEPLOY / "make-secrets.sh", folder]
    return subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = make_secrets(tmp_path / "secrets")
    assert made.returncode == 0, made.stderr
    return tmp_path / "secrets"


def test_the_generated_secrets_are_accepted_by_the_platform(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == NAMES
    assert len((folder / "signing.key").read_text().strip()) >= 32
    key = (folder / "api.key").read_text().strip()
    shape = re.compile(r"sk_[0-9a-f]{16}\.[A-Za-z0-9_-]{43}")
    assert shape.fullmatch(key)
    assert shape.fullmatch(new_token()), "the shape of keys has changed: make-secrets.sh has to follow"


def test_client_and_server_get_the_same_password(folder: Path) -> None:
    acl = [DEFAULT_USER]
    for role, name in URLS.items():
        (password,) = re.findall(
            rf"^redis://sandlot-{role}:([0-9a-f]{{64}})@valkey:6379/0$", (folder / name).read_text().strip()
        )
        acl.append(f"user {user_rules(role, password)}")
    assert (folder / "valkey.acl").read_text().splitlines() == acl, (
        "make-secrets.sh has to say what sandlot.redis.acl says"
    )


def test_other_users_cannot_read_the_secrets_and_containers_can(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_running_the_script_again_keeps_every_secret(folder: Path) -> None:
    before = {path.name: path.read_text() for path in folder.iterdir()}
    again = make_secrets(folder)
    assert again.stdout.count("kept") == len(NAMES)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_a_url_without_its_password_file_is_not_silently_replaced(folder: Path) -> None:
    (folder / "valkey.acl").unlink()
    refused = make_secrets(folder)
    assert refused.returncode == 1
    assert "not all: remove them" in refused.stderr


def test_systemd_parses_every_line_of_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    for unit in (DEPLOY / "systemd").glob("*.service"):
        # It insists that the program exists on this machine.
        text = re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name.replace("@.", "@1.")).write_text(text)
    units = [str(path) for path in tmp_path.iterdir()]
    words = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
