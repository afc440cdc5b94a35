"""What is preloaded into the embedded Valkey."""

from __future__ import annotations

import importlib.metadata
import subprocess
from typing import Any

import pytest

from sandlot.cli.up.valkey import can_preload, find_mimalloc, with_mimalloc


def test_mimalloc_comes_first_and_what_was_preloaded_stays() -> None:
    library = find_mimalloc()
    assert library is not None
    assert library.is_file()
    assert with_mimalloc({"LD_PRELOAD": "/other.so", "A": "1"}) == {"LD_PRELOAD": f"{library} /other.so", "A": "1"}
    assert with_mimalloc({})["LD_PRELOAD"] == str(library)


def test_without_the_wheel_nothing_is_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    assert with_mimalloc({"A": "1"}) == {"A": "1"}


def test_a_library_with_which_nothing_starts_is_not_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an image without libatomic: the dynamic linker ends whatever is started with status 127."""
    library = find_mimalloc()
    assert library is not None
    assert can_preload(library)
    refused = subprocess.CompletedProcess([], 127)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: refused)
    assert with_mimalloc({"A": "1"}) == {"A": "1"}
