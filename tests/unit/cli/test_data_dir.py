"""The data folder: keys are made once, for us alone; one `sandlot up` at a time; others find what runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandlot.cli.data_dir import DataDir, RunningPlatform
from sandlot.errors import InvalidSettings
from sandlot.settings import Settings


@pytest.fixture
def home(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / ".sandlot")
    made.create()
    return made


def test_keys_are_made_once_and_for_their_owner_alone(home: DataDir) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in (home.key_file, home.signing_key_file, home.valkey)}
    assert modes == {"key": 0o600, "signing.key": 0o600, "valkey": 0o700}
    before = (home.key_file.read_text(), home.signing_key_file.read_text())
    home.create()
    assert (home.key_file.read_text(), home.signing_key_file.read_text()) == before


def test_another_user_may_pass_through_the_folder_but_not_list_it(home: DataDir) -> None:
    assert home.path.stat().st_mode & 0o777 == 0o711


def test_git_never_sees_the_folder(home: DataDir) -> None:
    assert (home.path / ".gitignore").read_text().splitlines()[-1] == "*"


def test_the_signing_key_that_is_made_is_one_that_the_settings_accept(home: DataDir) -> None:
    assert len(Settings(data=home.path).read_signing_key()) == 64


def test_a_folder_that_cannot_be_made_is_one_line_of_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InvalidSettings,
        match=r"cannot use .*file/data as the data folder: Not a directory\. Choose another with --data",
    ):
        DataDir(tmp_path / "file" / "data").create()


def test_only_one_up_at_a_time_and_the_second_is_told_who_the_first_is(home: DataDir) -> None:
    second = DataDir(home.path)
    running = RunningPlatform(pid=os.getpid(), url="http://127.0.0.1:8123", redis_url="unix:///x")
    with (
        home.held(),
        home.announced(running),
        pytest.raises(InvalidSettings, match=rf"another sandlot up \(process {os.getpid()}, http://127.0.0.1:8123\)"),
        second.held(),
    ):
        pass
    with second.held():
        pass


def test_a_running_platform_is_announced(home: DataDir) -> None:
    running = RunningPlatform(pid=os.getpid(), url="http://127.0.0.1:8123", redis_url="unix:///x")
    assert home.running() is None
    with home.announced(running):
        assert DataDir(home.path).running() == running
        assert (home.path / "running.json").stat().st_mode & 0o777 == 0o600, "the URL of Redis may hold a password"
    assert home.running() is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": 4194304, "url": "http://x", "redis_url": ""}'])
def test_an_announcement_that_a_dead_process_left_is_not_believed(home: DataDir, content: bytes) -> None:
    (home.path / "running.json").write_bytes(content)
    assert home.running() is None


def test_the_nearest_folder_with_a_key_is_the_one(home: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    below = home.path.parent / "deep" / "below"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert DataDir.nearest().path == home.path
