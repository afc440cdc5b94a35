"""The `sandlot` command against a platform.

Results are on stdout and everything else on stderr; the exit code tells success from failure.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.up_process import Up
from tests.waiting import HANG_S, until

Sandlot = Callable[..., subprocess.CompletedProcess[str]]
IT_WORKS = {"message": "it works!", "status": "ok "}


@pytest.mark.slow
def test_stdout_has_only_the_result(sandlot: Sandlot) -> None:
    shown = sandlot("invoke", "hello")
    assert (shown.returncode, json.loads(shown.stdout)) == (0, IT_WORKS)
    assert re.search(r"ok in [\d.]+ ms · version 1 · job \S+", shown.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("event", ['{"csv": "a\\n1\\n2"}', "@event.json", "-"])
def test_an_event_comes_from_the_argument_a_file_or_stdin(sandlot: Sandlot, platform: Up, event: str) -> None:
    text = '{"csv": "a\\n1\\n2"}'
    (platform.folder / "event.json").write_text(text)
    shown = sandlot("invoke", "csv-report", event, stdin=text if event == "-" else "")
    assert json.loads(shown.stdout)["columns"]["a"]["sum"] == 3.0


@pytest.mark.slow
def test_a_batch_prints_the_ids_of_its_jobs_and_lists_them(sandlot: Sandlot) -> None:
    shown = sandlot("batch", "hello", "[1, 2, 3]")
    ids = shown.stdout.split()
    assert (shown.returncode, len(ids)) == (0, 3)
    assert "3 jobs queued" in shown.stderr
    for job_id in ids:
        assert sandlot("job", job_id, "--wait").returncode == 0
    listed = sandlot("jobs", "--function", "hello", "--status", "succeeded", "--limit", "3")
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == sorted(ids, reverse=True)
    assert {job["id"] for job in json.loads(sandlot("jobs", "--limit", "3", "--json").stdout)} == set(ids)


@pytest.mark.slow
@pytest.mark.parametrize(("events", "said"), [("[]", "a batch of 0 events"), ("{}", "the body is not an array")])
def test_an_invalid_batch_exits_with_2(sandlot: Sandlot, events: str, said: str) -> None:
    shown = sandlot("batch", "hello", events)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert said in shown.stderr


@pytest.mark.slow
def test_output_is_shown_on_request(sandlot: Sandlot) -> None:
    shown = sandlot("invoke", "side-by-side", '{"tea": 0.01}', "--logs")
    assert "tea is ready\n" in shown.stderr
    assert json.loads(shown.stdout)["finished_in_order"] == ["tea"]


@pytest.mark.slow
def test_json_output_is_one_complete_document(sandlot: Sandlot) -> None:
    shown = sandlot("invoke", "side-by-side", '{"tea": 0.01}', "--logs", "--json")
    document = json.loads(shown.stdout)
    assert (document["outcome"], document["version"], document["logs"]) == ("ok", "1", "tea is ready\n")
    assert document["value"]["finished_in_order"] == ["tea"]
    assert document["timings"]["total"] > 0


@pytest.mark.slow
def test_an_exception_is_shown_with_its_own_frames_and_exits_with_1(sandlot: Sandlot) -> None:
    shown = sandlot("invoke", "csv-report", '{"csv": 1}')
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "TypeError: " in shown.stderr
    assert "csv_report.py" in shown.stderr
    assert "runner.py" not in shown.stderr
    assert (
        json.loads(sandlot("invoke", "csv-report", '{"csv": 1}', "--json").stdout)["problem"]["code"]
        == "function_error"
    )


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("invoke", "nothing"), 2, "no function 'nothing' is deployed"),
        (("invoke", "hello", "--version", "99"), 2, "no version 99"),
        (("job", "00000000-0000-0000-0000-000000000000"), 2, "no job"),
        (("logs", "never-was"), 2, "no job"),
        (("functions", "nothing"), 2, "no function 'nothing' is deployed"),
        (("functions", "nothing", "--delete"), 2, "no function 'nothing' is deployed"),
        (("functions", "--delete"), 2, "say which function"),
        (("key", "revoke", "0000000000000000"), 2, "no key '0000000000000000' exists"),
    ],
)
def test_each_usage_error_is_reported_without_a_traceback(
    sandlot: Sandlot, words: tuple[str, ...], status: int, reason: str
) -> None:
    shown = sandlot(*words)
    assert (shown.returncode, shown.stdout) == (status, ""), shown.stderr
    assert reason in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.slow
def test_a_job_is_queued_followed_and_its_result_fetched(sandlot: Sandlot) -> None:
    queued = sandlot("invoke", "side-by-side", '{"tea": 0.2}', "--async")
    job_id = queued.stdout.strip()
    assert "\n" not in job_id
    early = sandlot("job", job_id, "--result")
    assert early.returncode in (0, 3)  # 3: not yet
    waited = sandlot("job", job_id, "--wait")
    assert waited.returncode == 0
    assert re.search(r"status\s+succeeded", waited.stdout)
    assert json.loads(sandlot("job", job_id, "--result").stdout)["finished_in_order"] == ["tea"]
    assert sandlot("logs", job_id).stdout == "tea is ready\n"
    job = json.loads(sandlot("job", job_id, "--json").stdout)
    assert (job["id"], job["status"], job["sandbox"]["level"]) == (job_id, "succeeded", job["sandbox"]["level"])


@pytest.mark.slow
def test_a_job_is_cancelled(sandlot: Sandlot, tmp_path: Path) -> None:
    (tmp_path / "naps.py").write_text(
        "# /// script\n# [tool.sandlot]\n# timeout = '5m'\n# ///\nimport time\n\ndef handler(event, context):\n    time.sleep(240)\n"
    )
    sandlot("deploy", str(tmp_path / "naps.py"))
    job_id = sandlot("invoke", "naps", "--async").stdout.strip()
    assert sandlot("job", job_id, "--cancel").returncode == 0
    ended = sandlot("job", job_id, "--wait", "--json")
    assert json.loads(ended.stdout)["status"] == "cancelled"
    assert ended.returncode == 1
    assert "has ended and cannot be cancelled" in sandlot("job", job_id, "--cancel").stderr
    again = json.loads(sandlot("job", job_id, "--retry", "--json").stdout)
    assert again["id"] != job_id
    assert sandlot("job", again["id"], "--cancel").returncode == 0
    assert sandlot("functions", "naps", "--delete").returncode == 0


@pytest.mark.slow
def test_an_elapsed_wait_leaves_the_job_running(sandlot: Sandlot) -> None:
    shown = sandlot("invoke", "side-by-side", '{"long": 1}', "--wait", "0.1")
    assert shown.returncode == 3
    (job_id,) = re.findall(r"/v1/jobs/(\S+)", shown.stderr)
    assert sandlot("job", job_id, "--wait").returncode == 0


@pytest.mark.slow
def test_functions_are_listed_shown_deployed_and_removed(sandlot: Sandlot, tmp_path: Path) -> None:
    (tmp_path / "extra.py").write_text("def handler(event, context):\n    return 1\n")
    (tmp_path / "broken.py").write_text("def handler(\n")
    assert sandlot("deploy", str(tmp_path / "extra.py")).stdout == "extra version 1\n"
    assert sandlot("deploy", str(tmp_path / "extra.py")).stdout == "extra version 1 (unchanged)\n"
    named = sandlot("deploy", str(tmp_path / "extra.py"), "--name", "other", "--json")
    assert [function["name"] for function in json.loads(named.stdout)] == ["other"]

    both = sandlot("deploy", str(tmp_path))
    assert (both.returncode, both.stdout) == (2, "extra version 1 (unchanged)\n")
    assert "broken.py:1: does not parse" in both.stderr

    listed = sandlot("functions")
    assert re.search(r"^extra\s+1\s+python\s+5s\s+256MiB\s+private", listed.stdout, re.MULTILINE)
    assert "latest" in sandlot("functions", "extra").stderr
    assert json.loads(sandlot("functions", "extra", "--json").stdout)["manifest"]["handler"] == "extra.handler"
    assert sandlot("functions", "extra", "--delete").stdout == "extra is deleted\n"
    assert sandlot("functions", "other", "--delete").returncode == 0
    assert "extra" not in sandlot("functions").stdout


@pytest.mark.slow
def test_a_folder_is_deployed_as_a_folder(sandlot: Sandlot, tmp_path: Path) -> None:
    folder = tmp_path / "in_parts"
    folder.mkdir()
    (folder / "function.toml").write_text('environment = { WORD = "there" }\n')
    (folder / "main.py").write_text(
        "import os\nfrom part import HELLO\n\ndef handler(event, context):\n    return HELLO + os.environ['WORD']\n"
    )
    (folder / "part.py").write_text("HELLO = 'hello '\n")
    try:
        assert sandlot("deploy", str(folder)).stdout == "in-parts version 1\n"
        assert json.loads(sandlot("invoke", "in-parts").stdout) == "hello there"
    finally:
        sandlot("functions", "in-parts", "--delete")


@pytest.mark.slow
def test_a_key_works_within_its_scopes_until_it_is_revoked(sandlot: Sandlot, platform: Up, tmp_path: Path) -> None:
    (tmp_path / "shop-cart.py").write_text("def handler(event, context):\n    return 1\n")
    sandlot("deploy", str(tmp_path / "shop-cart.py"))
    try:
        key = sandlot("key", "create", "--scope", "invoke", "--prefix", "shop-", "--note", "the shop").stdout.strip()
        key_id = key.removeprefix("sk_").partition(".")[0]
        assert "the shop" in sandlot("key", "list").stdout
        assert key not in sandlot("key", "list", "--json").stdout
        headers = {"authorization": f"Bearer {key}"}
        with platform.client(key=False) as client:
            assert client.post("/v1/functions/shop-cart/invoke", headers=headers).json() == 1
            assert client.delete("/v1/functions/shop-cart", headers=headers).status_code == 403
            assert sandlot("key", "revoke", key_id).stdout == f"key {key_id} is revoked\n"
            until(lambda: client.post("/v1/functions/shop-cart/invoke", headers=headers).status_code == 401)
    finally:
        sandlot("functions", "shop-cart", "--delete")


@pytest.mark.slow
def test_doctor_checks_everything_and_passes_on_this_machine(sandlot: Sandlot) -> None:
    shown = sandlot("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(shown.stdout)}
    assert {"Python", "Node", "Queue", "Durability", "Eviction"} <= set(checks)
    assert checks["Durability"]["found"] == "append-only file, fsync everysec"
    assert any(name.startswith("Sandbox") for name in checks)
    assert shown.returncode == 0, shown.stdout
    assert "✓" in sandlot("doctor").stdout


@pytest.mark.slow
def test_a_list_ends_quietly_when_its_reader_closes_the_pipe(platform: Up, sandlot: Sandlot) -> None:
    script = f"{sys.executable} -m sandlot functions | head -1"
    shown = subprocess.run(
        ["bash", "-c", script], cwd=platform.folder, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert (shown.stdout.split()[:2], shown.stderr) == (["NAME", "VERSION"], "")


@pytest.mark.slow
def test_dead_letters_are_listed_redriven_and_discarded(sandlot: Sandlot, platform: Up) -> None:
    source = platform.folder / "in_vain.py"
    source.write_text(
        '# /// script\n# [tool.sandlot.retry]\n# attempts = 2\n# on = ["error"]\n# backoff = "10ms"\n# ///\n'
        "def handler(event, context):\n    return 1 // event\n"
    )
    assert sandlot("deploy", str(source)).returncode == 0
    job_id = sandlot("invoke", "in-vain", "0", "--async").stdout.strip()
    assert sandlot("job", job_id, "--wait").returncode == 1
    listed = sandlot("dead-letters", "--function", "in-vain")
    assert re.search(rf"{job_id}\s+in-vain\s+error\s+2\s", listed.stdout), listed.stdout
    assert json.loads(sandlot("dead-letters", job_id, "--json").stdout)["event"] == 0
    assert sandlot("dead-letters", "--redrive").returncode == 2, "of which?"
    taken = sandlot("dead-letters", "--function", "in-vain", "--redrive")
    successor = re.search(rf"{job_id} redriven as (\S+)", taken.stdout)
    assert successor is not None
    sandlot("job", successor[1], "--wait")
    assert sandlot("dead-letters", successor[1], "--purge").stdout == f"{successor[1]} purged\n"
    assert json.loads(sandlot("dead-letters", "--function", "in-vain", "--json").stdout) == []
