"""`sandlot run`: one call in a worker's sandbox, without Redis, API or data folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.system.up_process import clean_environment, copy_examples
from tests.waiting import HANG_S


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy_examples(tmp_path)
    return tmp_path


def run(folder: Path, *words: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandlot", "run", *words],
        cwd=folder,
        env=clean_environment() | {"TMPDIR": str(folder)} | environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


@pytest.mark.slow
def test_the_result_is_on_stdout_and_everything_else_on_stderr(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    shown = run(folder, "functions/side_by_side.py", '{"tea": 0.01}')
    assert (shown.returncode, json.loads(shown.stdout)["finished_in_order"]) == (0, ["tea"])
    assert shown.stderr.startswith("tea is ready\n")
    assert re.search(
        r"ok in [\d.]+ ms \(boot [\d.]+, import [\d.]+, run [\d.]+\) · this machine, no server", shown.stderr
    )
    assert {path.name for path in folder.iterdir()} == before, "something was left behind"


@pytest.mark.slow
def test_node_folders_and_zips_run_too_and_the_event_comes_from_a_file_or_stdin(folder: Path) -> None:
    (folder / "event.json").write_text('{"markdown": "# Hi"}')
    assert json.loads(run(folder, "functions/markdown", "--event", "event.json").stdout)["html"] == "<h1>Hi</h1>"
    with zipfile.ZipFile(folder / "zipped.zip", "w") as archive:
        archive.writestr("main.py", "def handler(event, context):\n    return context.function_name\n")
    assert run(folder, "zipped.zip").stdout == '"zipped"\n'
    (folder / "functions" / "shout.js").write_text("(event) => event.toUpperCase()\n")
    assert run(folder, "functions/shout.js", "--event", "-", stdin='"hey"').stdout == '"HEY"\n'


@pytest.mark.slow
def test_a_failure_is_shown_with_its_frames_and_status_1(folder: Path) -> None:
    shown = run(folder, "functions/csv_report.py", '{"csv": 1}')
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "TypeError: " in shown.stderr
    assert 'csv_report.py", line' in shown.stderr
    (folder / "loop.py").write_text(
        "# /// script\n# [tool.sandlot]\n# timeout = '300ms'\n# ///\ndef handler(event, context):\n    while True:\n        pass\n"
    )
    document = json.loads(run(folder, "loop.py", "--json").stdout)
    assert (document["outcome"], document["evidence"]["limit"]) == ("timeout", {"wall_s": 0.3})
    assert document["sandbox"]["level"] in ("strict", "restricted")


@pytest.mark.slow
def test_secrets_come_from_the_environment_and_are_redacted(folder: Path) -> None:
    (folder / "keeper.py").write_text(
        "# /// script\n# [tool.sandlot]\n# secrets = ['TOKEN']\n# ///\nimport os\n"
        "def handler(event, context):\n    print(os.environ['TOKEN'])\n    return [os.environ['TOKEN'], 'HOME' in os.environ, 'OTHER' in os.environ]\n"
    )
    shown = run(folder, "keeper.py", TOKEN="hunter22", OTHER="x")
    assert (json.loads(shown.stdout), shown.stderr.splitlines()[0]) == (["hunter22", True, False], "***")
    refused = run(folder, "keeper.py")
    assert (refused.returncode, "needs the secret TOKEN" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("gone.py",), 2, "gone.py: cannot be read: No such file"),
        (("broken.py",), 2, "broken.py:1: does not parse"),
        (("functions/hello.py", "{"), 2, "the event is not JSON"),
        (("functions/hello.py", "1", "--event", "-"), 2, "the event is given twice"),
    ],
)
def test_each_input_that_cannot_run_is_reported_without_a_traceback(
    folder: Path, words: tuple[str, ...], status: int, reason: str
) -> None:
    (folder / "broken.py").write_text("def handler(\n")
    shown = run(folder, *words)
    assert (shown.returncode, shown.stdout) == (status, ""), shown.stderr
    assert reason in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.slow
def test_a_machine_without_a_strict_sandbox_runs_nothing(folder: Path) -> None:
    shown = run(folder, "functions/hello.py", SANDLOT_SANDBOX="perfect")
    assert (shown.returncode, shown.stdout) == (4, "")
    assert "SANDLOT_SANDBOX='perfect'" in shown.stderr
