"""Prose keeps the rules of CONTRIBUTING.md, and the checker sees each kind of fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prose import faults_below, faults_in

REPOSITORY = Path(__file__).resolve().parents[3]
CHECKED = (
    *("sandlot", "api", "worker", "runtimes", "docs"),
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKED)
def test_prose_keeps_the_rules(name: str) -> None:
    faults = faults_below([REPOSITORY / name])
    assert faults == [], "\n".join(f"{fault.path}:{fault.line}: {fault.rule}: {fault.text}" for fault in faults)


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("a.py", '"""Whoever calls it is told."""\n', "word"),
        ("a.py", "x = 1  # nobody reads it\n", "word"),
        ("a.py", 'raise ValueError("that is no name")\n', "word"),
        ("a.py", '"""Return it.\n\nWhat is missing is None.\n"""\n', "clause as subject"),
        ("a.py", f'"""{"long " * 21}."""\n', "wider than 100"),
        ("a.lua", "-- he waits\n", "word"),
        ("a.md", "Who calls it waits.\n", "clause as subject"),
        ("a.md", f"{'long ' * 21}\n", "wider than 100"),
    ],
)
def test_each_kind_of_fault_is_found(tmp_path: Path, name: str, text: str, rule: str) -> None:
    (tmp_path / name).write_text(text)
    assert [fault.rule for fault in faults_in(tmp_path / name)][:1] == [rule]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", '"""Return the name, or raise when it is not valid."""\n'),
        ("a.py", 'told = "who"\n'),
        ("a.md", "# What you get\n\nWhat does it cost? Nothing.\n\n```\nwhoever\n```\n"),
        ("a.md", f"| {'wide ' * 30} |\n|---|\n"),
    ],
)
def test_plain_prose_and_code_pass(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert list(faults_in(tmp_path / name)) == []
