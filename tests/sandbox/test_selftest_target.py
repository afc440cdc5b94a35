"""What the probe aims at is another process, also where the worker has a number that is somebody inside a sandbox."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from worker.sandbox.selftest import verify


def test_the_neighbour_is_alive_ours_and_has_a_number_beyond_those_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    with verify._neighbour("secret") as first:
        monkeypatch.setattr(verify, "NUMBERS_INSIDE", first)  # as where numbers begin at 1: the first ones will not do
        with verify._neighbour("secret") as pid:
            assert pid > first
            assert Path(f"/proc/{pid}").stat().st_uid == os.geteuid()
            assert environment_of(pid) == b"CANARY=secret\0"
    assert not Path(f"/proc/{pid}").exists()


def environment_of(pid: int) -> bytes:
    """Empty for the moment between the exec that releases the parent and the one that fills it in."""
    deadline_s = time.monotonic() + 10
    while not (found := Path(f"/proc/{pid}/environ").read_bytes()):
        assert time.monotonic() < deadline_s
    return found
