"""Where a build gets its programs from."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandlot.errors import InvalidSettings
from sandlot.models import Runtime
from sandlot.settings import load_settings
from worker.builder.indexes import read_indexes


def test_its_programs_are_found_by_a_zygote_that_is_in_another_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The data folder is `.sandlot` unless somebody says otherwise, as for a worker alone on its machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SANDLOT_DATA", raising=False)
    tools = read_indexes(load_settings(), None).tools
    assert tools[Runtime.PYTHON].is_relative_to(tmp_path / ".sandlot")


def test_a_disabled_index_is_refused_with_its_setting_and_the_other_one_serves() -> None:
    sources = read_indexes(load_settings(python_index_url="off"), None)
    assert "SANDLOT_PYTHON_INDEX_URL is `off`" in sources.obstacle(Runtime.PYTHON)
    assert "npm" in sources.obstacle(Runtime.NODE)
    sources = read_indexes(load_settings(npm_registry_url="off"), None)
    assert sources.obstacle(Runtime.PYTHON) == ""
    assert "SANDLOT_NPM_REGISTRY_URL is `off`" in sources.obstacle(Runtime.NODE)


@pytest.mark.parametrize("url", ["", "OFF", "pypi.org", "ftp://pypi.org/simple"])
def test_an_invalid_index_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="SANDLOT_PYTHON_INDEX_URL is neither"):
        read_indexes(load_settings(python_index_url=url), None)
