"""The Redis URL may come from a file, as secrets of containers do."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandlot.errors import InvalidSettings
from sandlot.settings import load_settings

URL = "redis://sandlot:password@valkey:6379/0"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("SANDLOT_REDIS_URL", raising=False)
    monkeypatch.setenv("SANDLOT_REDIS_URL_FILE", str(tmp_path / "redis.url"))
    return tmp_path / "redis.url"


def test_the_url_is_read_from_the_file_without_its_line_end(environment: Path) -> None:
    environment.write_text(URL + "\n")
    assert load_settings().redis_url.get_secret_value() == URL


def test_a_url_that_is_given_wins_over_the_file(environment: Path) -> None:
    environment.write_text(URL)
    assert load_settings(redis_url="redis://other").redis_url.get_secret_value() == "redis://other"


def test_the_message_names_the_missing_file(environment: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"cannot read the Redis URL from .*redis\.url: No such file"):
        load_settings()


def test_the_password_is_in_no_text_of_the_settings(environment: Path) -> None:
    environment.write_text(URL)
    assert "password@" not in repr(load_settings())
