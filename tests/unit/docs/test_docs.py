"""What the documentation says of settings and options is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sandlot.functions import read_path, read_source
from sandlot.functions.manifest import KEYS, RETRY_KEYS, Manifest
from sandlot.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = [
    REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md"))


def test_exactly_the_environment_variables_are_documented() -> None:
    documented = set(re.findall(r"SANDLOT_[A-Z_]+[A-Z]", (REPOSITORY / "docs" / "operations.md").read_text()))
    assert documented == {f"SANDLOT_{name.upper()}" for name in Settings.model_fields}


def table(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))


def test_every_setting_of_a_function_is_documented_with_its_default() -> None:
    text = (REPOSITORY / "docs" / "functions.md").read_text()
    settings, retries = text.split("### Retries\n")
    assert set(table(retries)) == set(RETRY_KEYS)
    rows = table(settings)
    assert set(rows) == set(KEYS)
    written = Manifest(runtime="python", handler="main.handler").to_table()
    for key in ("timeout", "memory", "visibility", "isolation", "log_limit", "network"):
        assert rows[key] == f'`"{written[key]}"`', key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_every_path_that_the_architecture_names_exists() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    named = re.findall(r"`((?:sandlot|api|worker|runtimes|functions|benchmarks|docs)/[\w./]*)`", text)
    assert named
    assert [path for path in named if not (REPOSITORY / path).exists() and "_server" not in path] == []


def test_every_question_of_the_architecture_has_a_file_that_names_the_answer() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"(?m)^\| (.+\?) \| `([^`]+)` \| `([^`]+)` \|$", text)
    assert len(rows) >= 15
    wrong = []
    for question, path, name in rows:
        file = REPOSITORY / path
        texts = [each.read_text() for each in file.rglob("*.py")] if file.is_dir() else [file.read_text()]
        if not any(re.search(rf"\b{name}\b", each) for each in texts):
            wrong.append((question, path, name))
    assert wrong == []


def functions_blocks(language: str) -> list[str]:
    text = (REPOSITORY / "docs" / "functions.md").read_text()
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


def test_the_settings_shown_for_each_kind_of_file_are_the_same_and_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (python, retrying, depending, scheduled), (javascript,), (toml,) = map(functions_blocks, ("python", "js", "toml"))
    folder = tmp_path / "greet"
    folder.mkdir()
    (folder / "function.toml").write_text(toml)
    (folder / "main.py").write_text("def handler(event, context): return 1\n")
    monkeypatch.setattr("sandlot.functions.source.find_node", lambda: None)  # no process in a unit test
    manifests = [
        read_source("greet", "greet.py", python)[1],
        read_source("greet", "greet.mjs", javascript)[1],
        read_path(folder)[2],
    ]
    for manifest in manifests:
        assert (manifest.timeout_s, dict(manifest.environment)) == (2.0, {"GREETING": "Hello"})
    assert read_source("depending", "depending.py", depending)[1].dependencies == ("numpy>=2", "pydantic")
    when = read_source("scheduled", "scheduled.py", scheduled)[1].cron_schedule()
    assert when is not None
    assert (when.cron, when.timezone) == ("30 2 * * *", "Europe/Berlin")
    retry = read_source("retrying", "retrying.py", retrying)[1].retry
    assert retry is not None
    assert (retry.attempts, retry.backoff_s, retry.max_age_s) == (5, 2.0, 3600.0)
