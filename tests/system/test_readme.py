"""The README: its commands run as written, its pictures and links exist, its claims are true."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.readme_blocks import README, bash, blocks
from tests.system.up_process import REPOSITORY, Up, copy_examples

WORDS_LIMIT = 600


def test_the_two_commands_follow_the_pitch() -> None:
    lines = [line.split("#")[0].strip() for line in README.splitlines()[3:8]]
    assert lines == ["", "```sh", "make up", "make test", "```"]
    assert README.splitlines()[2].endswith(".")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["up", "test"])
def test_both_commands_are_make_targets(target: str) -> None:
    shown = subprocess.run(["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert {"up": "sandlot up", "test": "pytest"}[target] in shown.stdout


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= WORDS_LIMIT


@pytest.mark.slow
def test_the_readmes_function_returns_the_result_shown(start_up: Callable[..., Up], tmp_path: Path) -> None:
    copy_examples(tmp_path)
    source, call, answer = [block for block in blocks(README) if block.heading == "Write a function, call it"]
    assert "`functions/greet.py`" in source.before
    up = start_up().ready()
    (tmp_path / "functions" / "greet.py").write_text(source.content)
    up.says("greet is now version 1", 60)
    shown = bash(call.content.replace("http://127.0.0.1:8000", up.url), tmp_path)
    assert json.loads(shown.stdout) == json.loads(answer.content), shown.stderr


def test_the_badges_match_pyproject() -> None:
    images = runpy.run_path(str(REPOSITORY / "docs" / "images" / "make_images.py"), run_name="images")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    for name, (label, value) in images["badges"](project).items():
        assert f"(docs/images/{name}.svg)" in README
        assert (REPOSITORY / "docs" / "images" / f"{name}.svg").read_text() == images["badge"](label, value)


def test_the_figures_match_the_committed_benchmark() -> None:
    measured = (REPOSITORY / "benchmarks" / "results" / "benchmark.md").read_text()
    figures = re.findall(r"\*\*([\d,.]+) ?\w", README.partition("## How fast it is")[2].partition("## How it")[0])
    assert len(figures) == 3
    assert [figure for figure in figures if figure not in measured] == []


def test_the_readme_has_no_external_address_or_pip_command() -> None:
    assert re.findall(r"https?://(?!127\.0\.0\.1:8000)\S+", README) == []
    assert "pip install" not in README


def links() -> list[str]:
    return sorted({link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link})


@pytest.mark.parametrize("link", links())
def test_every_linked_file_exists(link: str) -> None:
    assert (REPOSITORY / link).is_file()
