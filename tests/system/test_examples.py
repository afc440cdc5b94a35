"""Every example, called over HTTP on the real platform, answers what its docstring promises."""

from __future__ import annotations

import re
import shlex
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from tests.system.up_process import REPOSITORY, Up
from tests.waiting import HANG_S

EXAMPLES = sorted(path.name for path in (REPOSITORY / "functions").iterdir() if not path.name.startswith(("_", ".")))


def call(platform: Up, name: str, event: object = None) -> object:
    """A public function needs no key."""
    with platform.client(key=False) as client:
        reply = client.post(f"/v1/functions/{name}/invoke", json=event)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_at_least_six_examples_exist_and_all_are_deployed(platform: Up) -> None:
    with platform.client() as client:
        deployed = {function["name"]: function for function in client.get("/v1/functions").json()["functions"]}
    names = {Path(example).stem.replace("_", "-") for example in EXAMPLES}
    assert len(names) >= 6
    assert names <= deployed.keys()
    assert all(deployed[name]["manifest"]["visibility"] == "public" for name in names)


@pytest.mark.parametrize("name", ["hello", "exercise"])
def test_the_exercise_works_in_python_and_unchanged_in_javascript(platform: Up, name: str) -> None:
    assert call(platform, name) == {"message": "it works!", "status": "ok "}


def test_the_exercises_own_line_is_in_its_file_unchanged() -> None:
    lines = (REPOSITORY / "functions" / "exercise.js").read_text().splitlines()
    assert "(event, context) => ({ message: 'it works!', status: 'ok ' })" in lines


def test_the_bare_route_of_the_exercise_works_too(platform: Up) -> None:
    with platform.client(key=False) as client:
        assert client.get("/exercise").json() == {"message": "it works!", "status": "ok "}


def test_a_table_becomes_figures_by_group(platform: Up) -> None:
    event = {"csv": "city,sold,note\nOslo,3,x\nRome,4,y\nOslo,5,z", "by": "city"}
    assert call(platform, "csv-report", event) == {
        "Oslo": {"rows": 2, "columns": {"sold": {"sum": 8.0, "mean": 4.0, "min": 3.0, "max": 5.0}}},
        "Rome": {"rows": 1, "columns": {"sold": {"sum": 4.0, "mean": 4.0, "min": 4.0, "max": 4.0}}},
    }


def test_a_picture_is_a_png_that_a_browser_can_show(platform: Up) -> None:
    with platform.client(key=False) as client:
        reply = client.get("/fn/mandelbrot", params={"width": "60"})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
    assert reply.content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height, depth, colour = struct.unpack(">IIBB", reply.content[16:26])
    assert (width, height, depth, colour) == (60, 40, 8, 2)
    start = reply.content.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", reply.content[start - 8 : start - 4])
    assert len(zlib.decompress(reply.content[start : start + length])) == 40 * (1 + 3 * 60)


@pytest.mark.slow
def test_waiting_steps_run_concurrently(platform: Up) -> None:
    answer = call(platform, "side-by-side", {"slow": 0.4, "quick": 0.1, "middle": 0.25})
    assert isinstance(answer, dict)
    assert answer["finished_in_order"] == ["quick", "middle", "slow"]
    assert answer["took_s"] < answer["waiting_s"]


def test_a_page_greets_and_escapes(platform: Up) -> None:
    with platform.client(key=False) as client:
        reply = client.get("/fn/page/any/path", params={"name": "<Ada>"})
        refused = client.post("/fn/page")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Hello, &lt;Ada&gt;" in reply.text
    assert "/any/path" in reply.text
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


def test_an_es_module_computes_the_sunrise(platform: Up) -> None:
    oslo = call(platform, "sunrise", {"latitude": 59.91, "longitude": 10.75, "date": "2026-06-21"})
    assert isinstance(oslo, dict)
    # The almanac has 01:54 and 20:44 UTC.
    assert abs(minutes(oslo["rises"]) - minutes("01:54")) <= 5
    assert abs(minutes(oslo["sets"]) - minutes("20:44")) <= 5
    assert call(platform, "sunrise", {"latitude": 80, "longitude": 15, "date": "2026-06-21"}) == {
        "date": "2026-06-21",
        "sun": "never sets",
    }


def minutes(clock: str) -> int:
    hours, _, rest = clock.partition(":")
    return int(hours) * 60 + int(rest)


def test_the_caller_sees_an_examples_exception(platform: Up) -> None:
    with platform.client(key=False) as client:
        reply = client.post("/v1/functions/sunrise/invoke", json={"latitude": 91, "longitude": 0, "date": "2026-06-21"})
    assert (reply.status_code, reply.json()["code"]) == (502, "function_error")
    assert reply.json()["error"]["errorType"] == "RangeError"
    assert "not a place on Earth" in reply.json()["error"]["errorMessage"]


def test_a_folder_of_files_renders_markdown(platform: Up) -> None:
    answer = call(platform, "markdown", {"markdown": "# Title\n\nThis is *real* `<b>`.\n\n- one\n- two"})
    assert answer == {
        "html": "<h1>Title</h1>\n<p>This is <em>real</em> <code>&lt;b&gt;</code>.</p>\n<ul><li>one</li><li>two</li></ul>",
        "contents": [{"level": 1, "title": "Title"}],
    }


def commands() -> list[str]:
    """List the curl commands in the examples' own comments, continued lines included."""
    files = [path for path in sorted((REPOSITORY / "functions").rglob("*")) if path.suffix in (".py", ".mjs", ".js")]
    texts = [re.sub(r"(?m)^// ?", "", path.read_text()) for path in files]
    return [command for text in texts for command in re.findall(r"(?m)^curl (?:.*\\\n)*.*$", text)]


@pytest.mark.parametrize("command", commands())
def test_the_command_in_an_examples_comment_works_as_written(platform: Up, command: str) -> None:
    # In Python sources a backslash is written twice; the shell sees one.
    words = shlex.split(
        command.replace("\\\n", "").replace("\\\\n", "\\n").replace("http://127.0.0.1:8000", platform.url)
    )
    shown = subprocess.run(
        [*words, "--silent", "--show-error", "--fail-with-body"],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_an_examples_output_is_in_its_jobs_log(platform: Up) -> None:
    with platform.client() as client:
        reply = client.post("/v1/functions/side-by-side/invoke", json={"tea": 0.01})
        logs = client.get(f"/v1/jobs/{reply.headers['x-job-id']}/logs")
    assert logs.text == "tea is ready\n"
