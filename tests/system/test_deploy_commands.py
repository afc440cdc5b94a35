"""`sandlot deploy`, `rollback` and `download` against a platform: files, folders and zips."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.up_process import Up, clean_environment

Sandlot = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(platform: Up, sandlot: Sandlot) -> Iterator[Path]:
    """Where a test writes what it deploys as `trial`, outside the folder that is watched."""
    path = platform.folder / "elsewhere"
    path.mkdir(exist_ok=True)
    yield path
    sandlot("functions", "trial", "--delete")
    for file in path.iterdir():
        file.unlink()


def write(folder: Path, number: int, **entries: str) -> Path:
    """A zip of a function that returns this number."""
    path = folder / "trial.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("main.py", f"def handler(event, context):\n    return {number}\n")
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.mark.slow
def test_zips_are_deployed_rolled_back_and_downloaded(sandlot: Sandlot, folder: Path) -> None:
    for number in (1, 2):
        shown = sandlot("deploy", str(write(folder, number)))
        assert (shown.returncode, shown.stdout) == (0, f"trial version {number}\n"), shown.stderr
    assert sandlot("rollback", "trial", "1").stdout == "trial is now version 1\n"
    assert json.loads(sandlot("invoke", "trial").stdout) == 1
    assert sandlot("rollback", "trial", "2", "--alias", "prod").stdout == "trial prod is now version 2\n"
    assert json.loads(sandlot("invoke", "trial", "--version", "prod").stdout) == 2
    assert "prod is version 2" in sandlot("functions", "trial").stderr
    copy = folder / "copy.zip"
    assert sandlot("download", "trial", "--version", "prod", "-o", str(copy)).returncode == 0
    again = sandlot("deploy", str(copy), "--name", "trial")
    assert again.stdout == "trial version 2 (unchanged)\n"
    refused = sandlot("download", "trial", "-o", str(copy))
    assert (refused.returncode, "cannot write" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_an_alias_splits_calls_and_is_removed_without_its_versions(sandlot: Sandlot, folder: Path) -> None:
    for number in (1, 2):
        sandlot("deploy", str(write(folder, number)))
    moved = sandlot("rollback", "trial", "1", "--alias", "prod", "--share", "2=25%")
    assert (moved.returncode, moved.stdout) == (0, "trial prod is now version 1\n"), moved.stderr
    assert "prod is version 1, 25% to version 2" in sandlot("functions", "trial").stderr
    for share, reason in (("2=much", "2=10%"), ("2=150%", "must be between 0 and 1")):
        refused = sandlot("rollback", "trial", "1", "--alias", "prod", "--share", share)
        assert (refused.returncode, reason in refused.stderr) == (2, True), refused.stderr
    gone = sandlot("functions", "trial", "--delete", "--alias", "prod")
    assert (gone.returncode, gone.stdout) == (0, "alias prod of trial is deleted\n"), gone.stderr
    assert "prod" not in sandlot("functions", "trial").stderr
    again = sandlot("functions", "trial", "--delete", "--alias", "prod")
    assert (again.returncode, "has no alias 'prod'" in again.stderr) == (2, True), again.stderr


@pytest.mark.slow
def test_a_hostile_zip_is_refused_and_its_entry_named(sandlot: Sandlot, folder: Path) -> None:
    path = write(folder, 1)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../outside.py", "x = 1")
    shown = sandlot("deploy", str(path))
    assert (shown.returncode, "'../../outside.py'" in shown.stderr) == (2, True), shown.stderr
    assert shown.stderr.startswith("error trial.zip: the archive is refused"), "of several paths it says which"


@pytest.mark.slow
def test_the_second_of_two_concurrent_changes_is_refused(sandlot: Sandlot, folder: Path) -> None:
    sandlot("deploy", str(write(folder, 1)))
    revision = json.loads(sandlot("functions", "trial", "--json").stdout)["revision"]
    assert f"revision {revision}" in sandlot("functions", "trial").stderr
    won = sandlot("deploy", str(write(folder, 2)), "--if-match", revision)
    assert (won.returncode, won.stdout) == (0, "trial version 2\n")
    for words in (("deploy", str(write(folder, 3))), ("rollback", "trial", "1")):
        lost = sandlot(*words, "--if-match", revision)
        assert (lost.returncode, "has changed since you read it" in lost.stderr) == (2, True), lost.stderr
    assert json.loads(sandlot("invoke", "trial").stdout) == 2


@pytest.mark.slow
def test_an_ignored_package_list_is_warned_about_and_the_given_name_is_used(sandlot: Sandlot, folder: Path) -> None:
    (folder / "trial.py").write_text("def handler(event, context):\n    return 1\n")
    (folder / "requirements.txt").write_text("numpy\n")
    shown = sandlot("deploy", str(folder))
    assert (shown.returncode, shown.stdout) == (0, "trial version 1\n"), shown.stderr
    (folder / "9lives.py").write_text("def handler(event, context):\n    return 9\n")
    assert sandlot("deploy", str(folder / "9lives.py"), "--name", "trial").stdout == "trial version 2\n"
    assert sandlot("invoke", "trial").stdout == "9\n"
    assert f"{folder}/requirements.txt is ignored" in shown.stderr.replace("\n", "")


@pytest.mark.slow
def test_rolling_back_to_an_unknown_version_is_one_line(sandlot: Sandlot, folder: Path) -> None:
    sandlot("deploy", str(write(folder, 1)))
    shown = sandlot("rollback", "trial", "9")
    assert (shown.returncode, "'trial' has no version 9" in shown.stderr) == (2, True), shown.stderr


@pytest.mark.slow
def test_a_deploy_that_no_worker_can_run_is_warned_about(sandlot: Sandlot, folder: Path) -> None:
    shown = sandlot("deploy", str(write(folder, 1, **{"function.toml": 'tags = ["gpu"]'})))
    assert (shown.returncode, "sandlot worker --tag gpu" in shown.stderr) == (0, True), shown.stderr
    called = sandlot("invoke", "trial")
    assert (called.returncode, "python,gpu" in called.stderr) == (3, True), called.stderr


def type_secret(folder: Path, name: str, value: str) -> None:
    """At the prompt of a terminal, which must not show it."""
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "sandlot", "secret", "set", name],
        cwd=folder,
        env=clean_environment(),
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    ) as process:
        os.close(inside)
        seen = ""
        while f"value of {name}: " not in seen:
            seen += os.read(terminal, 4096).decode()
        os.write(terminal, f"{value}\n".encode())
        while f"{name} is set" not in seen:
            seen += os.read(terminal, 4096).decode()
        assert process.wait(30) == 0
    os.close(terminal)
    assert value not in seen


@pytest.mark.slow
def test_secrets_are_set_from_stdin_and_at_a_prompt_listed_and_deleted(sandlot: Sandlot, folder: Path) -> None:
    assert sandlot("secret", "set", "WORD", stdin="swordfish\n").stdout == "WORD is set\n"
    listed = sandlot("secret", "list")
    assert ("WORD" in listed.stdout, "swordfish" in listed.stdout) == (True, False)
    path = folder / "trial.py"
    path.write_text(
        "# /// script\n# [tool.sandlot]\n# secrets = ['WORD']\n# ///\nimport os\n\n\ndef handler(event, context):\n    return len(os.environ['WORD'])\n"
    )
    assert sandlot("deploy", str(path)).returncode == 0
    assert json.loads(sandlot("invoke", "trial").stdout) == len("swordfish")
    type_secret(folder.parent, "WORD", "sword")
    assert json.loads(sandlot("invoke", "trial").stdout) == len("sword")
    assert sandlot("secret", "delete", "WORD").stdout == "WORD is deleted\n"
    again = sandlot("secret", "delete", "WORD")
    assert (again.returncode, "no secret 'WORD' exists" in again.stderr) == (2, True)
