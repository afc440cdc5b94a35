"""What is preloaded into the embedded Valkey."""

from __future__ import annotations

import importlib.metadata
import subprocess
from typing import Any

import pytest

from sandlot.cli.up.valkey import find_library, loads, preload


def test_mimalloc_comes_first_and_what_was_preloaded_stays() -> None:
    library = find_library()
    assert library is not None
    assert library.is_file()
    assert preload({"LD_PRELOAD": "/other.so", "A": "1"}) == {"LD_PRELOAD": f"{library} /other.so", "A": "1"}
    assert preload({})["LD_PRELOAD"] == str(library)


def test_without_the_wheel_nothing_is_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    assert preload({"A": "1"}) == {"A": "1"}


def test_a_library_with_which_nothing_starts_is_not_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an image without libatomic: the dynamic linker ends whatever is started with status 127."""
    library = find_library()
    assert library is not None
    assert loads(library)
    refused = subprocess.CompletedProcess([], 127)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: refused)
    assert preload({"A": "1"}) == {"A": "1"}
