"""What is preloaded into the embedded Valkey."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from sandlot.cli.up.allocator import find_library, preload


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
