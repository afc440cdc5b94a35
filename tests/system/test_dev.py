"""`sandlot dev` against a running platform: saved files are deployed, calls are shown."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.up_process import Command, Up, clean_environment
from tests.waiting import HANG_S, until

SOURCE = "def handler(event, context):\n    print('got', event)\n    return {} / event\n"


def shows(dev: Command, pattern: str) -> None:
    until(lambda: re.search(pattern, dev.output), reason=lambda: f"never said {pattern!r}; it said:\n{dev.output}")


def test_a_saved_file_is_deployed_and_a_call_is_shown_with_its_output(platform: Up, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "divide.py").write_text(SOURCE.format(6))
    dev = Command(platform.folder, "dev", "--functions", str(folder))
    try:
        shows(dev, r"is deployed to http://\S+: divide\n")
        with platform.client() as client:
            assert client.post("/v1/functions/divide/invoke", content=b"3").json() == 2.0
            shows(dev, r"│ divide: got 3\n✓ divide ok in [\d.]+ ms · version 1 · job \S+\n")
            (folder / "divide.py").write_text(SOURCE.format(12))
            shows(dev, r"✓ divide is now version 2 \(\d+ ms\)")
            assert client.post("/v1/functions/divide/invoke", content=b"0").status_code == 502
            shows(dev, r"│ divide: got 0\n✗ divide error in .* version 2 .*: ZeroDivisionError: division by zero")
            (folder / "divide.py").write_text("def handler(")
            shows(dev, r"✗ divide.py:1: does not parse.*; divide version 2 still serves")
            client.post("/v1/functions/hello/invoke").raise_for_status()
            client.post("/v1/functions/divide/invoke", content=b"4").raise_for_status()
            shows(dev, r"got 4\n")
        assert "hello" not in dev.output, "not of this folder"
    finally:
        status = dev.stop()
        with platform.client() as client:
            client.delete("/v1/functions/divide")
    assert (status, "stopped watching" in dev.output) == (0, True)


HELD = """import pathlib, time

def handler(event, context):
    print("begun")
    while not pathlib.Path("/tmp/never").exists():
        time.sleep(0.02)
"""


def test_output_is_shown_once_and_while_the_call_runs(platform: Up, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "held.py").write_text('# /// script\n# [tool.sandlot]\n# timeout = "1m"\n# ///\n' + HELD)
    dev = Command(platform.folder, "dev", "--functions", str(folder))
    try:
        shows(dev, r": held\n")
        with platform.client() as client:
            job = client.post("/v1/functions/held/invoke", headers={"prefer": "respond-async"}).json()["id"]
            shows(dev, r"│ held: begun\n")
            assert client.get(f"/v1/jobs/{job}").json()["status"] == "running", "what it printed was shown too late"
            client.delete(f"/v1/jobs/{job}")
            shows(dev, rf"✗ held cancelled.* job {job}")
        assert dev.output.count("held: begun") == 1
    finally:
        status = dev.stop()
        with platform.client() as client:
            client.delete("/v1/functions/held")
    assert status == 0


def test_ctrl_c_does_not_wait_for_a_followed_call(platform: Up, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "held.py").write_text('# /// script\n# [tool.sandlot]\n# timeout = "1m"\n# ///\n' + HELD)
    dev = Command(platform.folder, "dev", "--functions", str(folder))
    with platform.client() as client:
        try:
            shows(dev, r": held\n")
            job = client.post("/v1/functions/held/invoke", headers={"prefer": "respond-async"}).json()["id"]
            shows(dev, r"│ held: begun\n")
            assert dev.stop() == 0
            assert client.get(f"/v1/jobs/{job}").json()["status"] == "running", (
                "stopping what watches stops nothing else"
            )
            client.delete(f"/v1/jobs/{job}")
        finally:
            dev.kill()
            client.delete("/v1/functions/held")
    assert "Traceback" not in dev.output


def test_files_saved_while_the_platform_was_down_are_deployed_when_it_returns(
    start_up: Callable[..., Up], tmp_path: Path
) -> None:
    (tmp_path / "functions").mkdir()
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "divide.py").write_text(SOURCE.format(6))
    up = start_up().ready()
    port = up.url.rpartition(":")[2]
    dev = Command(tmp_path, "dev", "--functions", str(folder))
    try:
        shows(dev, r": divide\n")
        assert up.stop() == 0
        (folder / "divide.py").write_text(SOURCE.format(12))
        shows(dev, r"✗ cannot reach .*; divide version 1 still serves; divide.py is deployed when it answers\n")
        again = start_up("--port", port).ready()
        shows(dev, r"✓ divide is now version 2 ")
        with again.client() as client:
            assert client.post("/v1/functions/divide/invoke", content=b"3").json() == 4.0
        assert dev.output.count("is deployed when it answers") == 1
    finally:
        dev.kill()


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [(("--functions", "nowhere"), 4, "there is no such folder"), (("--url", "http://127.0.0.1:9"), 3, "sandlot up")],
)
def test_unusable_arguments_are_reported_at_once(
    platform: Up, words: tuple[str, ...], status: int, reason: str
) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "sandlot", "dev", *words],
        cwd=platform.folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (shown.returncode, reason in shown.stderr) == (status, True), shown.stderr
