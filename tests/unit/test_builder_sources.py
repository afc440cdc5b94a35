"""Where a build gets its programs from."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandlot.models import Runtime
from sandlot.settings import load_settings
from worker.builder.sources import read_sources


def test_its_programs_are_found_by_a_zygote_that_is_in_another_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The data folder is `.sandlot` unless somebody says otherwise, as for a worker alone on its machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SANDLOT_DATA", raising=False)
    tools = read_sources(load_settings(), None).tools
    assert tools[Runtime.PYTHON].is_relative_to(tmp_path / ".sandlot")
