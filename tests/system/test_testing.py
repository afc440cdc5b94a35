"""`sandlot new` writes a function and a passing test.

The fixture `sandlot` is a platform for the tests alone.
"""

from __future__ import annotations

import getpass
import subprocess
import sys
from pathlib import Path

from tests.system.up_process import clean_environment
from tests.waiting import HANG_S

MORE = """
import pytest
from sandlot.testing import FunctionFailed


def test_a_failed_test_shows_the_functions_exception_and_logs(sandlot, tmp_path):
    (tmp_path / "fragile.py").write_text("def handler(event, context):\\n    print('so far')\\n    raise ValueError(event)\\n")
    fragile = sandlot.deploy(tmp_path / "fragile.py")
    with pytest.raises(FunctionFailed, match=r"(?s)ValueError: oh no.*line 3.*so far") as failed:
        fragile("oh no")
    assert failed.value.result.outcome == "error"
    result = fragile.invoke("again")
    assert not result.ok
    assert sandlot.logs(result) == "so far\\n"


def test_a_test_can_set_a_secret_and_choose_a_name(sandlot, tmp_path):
    (tmp_path / "a.py").write_text(
        "# /// script\\n# [tool.sandlot]\\n# secrets = ['TOKEN']\\n# ///\\nimport os\\ndef handler(event, context):\\n    return os.environ['TOKEN'] == event\\n"
    )
    sandlot.set_secret("TOKEN", "a-value")
    assert sandlot.deploy(tmp_path / "a.py", name="keeper")("a-value") is True
    assert sandlot.function("keeper")("another") is False


def test_a_job_can_be_cancelled(sandlot, tmp_path):
    (tmp_path / "slow.py").write_text("import time\\ndef handler(event, context):\\n    time.sleep(4)\\n")
    job = sandlot.deploy(tmp_path / "slow.py").submit()
    job.cancel()
    assert job.wait()["status"] == "cancelled"
"""


def command(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", *words],
        cwd=folder,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def test_a_new_project_has_tests_that_pass(tmp_path: Path) -> None:
    for words in (("greet",), ("word-count", "--runtime", "node")):
        assert command(tmp_path, "sandlot", "new", *words).returncode == 0
    (tmp_path / "tests" / "test_more.py").write_text(MORE)
    # Whatever platform the shell points at: tests get one of their own, and leave nothing.
    elsewhere = {
        "SANDLOT_REDIS_URL": "redis://127.0.0.1:9/0",
        "SANDLOT_URL": "http://127.0.0.1:9",
        "TMPDIR": str(tmp_path),
    }
    shown = command(tmp_path, "pytest", "-q", "-p", "no:asyncio", "-W", "error", **elsewhere)
    assert (shown.returncode, "7 passed" in shown.stdout) == (0, True), shown.stdout + shown.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {
        "functions",
        "tests",
        ".pytest_cache",
        f"pytest-of-{getpass.getuser()}",
    }


def test_a_platform_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "test_any.py").write_text("def test_any(sandlot):\n    pass\n")
    shown = command(tmp_path, "pytest", "-q", "-p", "no:asyncio", SANDLOT_SANDBOX="weak")
    assert (shown.returncode, "the platform for the tests did not start" in shown.stdout) == (1, True), shown.stdout
    assert "SANDLOT_SANDBOX='weak'" in shown.stdout
