"""The commands without a platform behind them: help, versions, scaffolds, and errors that are one line and an exit code."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sandlot.cli.app import app, main
from sandlot.cli.output import exit_code
from sandlot.errors import (
    ApiUnreachable,
    CallerError,
    FunctionNotFound,
    InvalidSettings,
    NoWorker,
    QueueFull,
    SandlotError,
)
from sandlot.functions import read_path
from sandlot.models import Runtime
from sandlot.redis.acl import DEFAULT_USER, Role, user_rules

COMMANDS = [
    "up",
    "api",
    "worker",
    "deploy",
    "functions",
    "rollback",
    "download",
    "invoke",
    "jobs",
    "job",
    "logs",
    "batch",
    "status",
    "top",
    "doctor",
    "new",
    "run",
    "dev",
    "key",
    "secret",
    "redis-acl",
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, without our environment, with nothing listening."""
    monkeypatch.chdir(tmp_path)
    for name in ("SANDLOT_URL", "SANDLOT_KEY", "SANDLOT_DATA", "SANDLOT_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def run(*words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The `sandlot` command as the shell sees it: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["sandlot", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0 if code is None else 1), captured.out, captured.err


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_describes_it(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert "Usage: sandlot" in shown.output or f"{command} [" in shown.output


def test_the_help_names_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert all(f" {command} " in shown for command in COMMANDS)


def test_an_unknown_command_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run("frobnicate", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, "No such command 'frobnicate'" in err) == (2, True)


def test_a_platform_that_is_down_is_one_line_with_the_start_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run("functions", "--url", "http://127.0.0.1:9", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "cannot reach http://127.0.0.1:9" in err
    assert "sandlot up" in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("invoke", "hello", "{name: Ada}"), "the event is not JSON"),
        (("invoke", "hello", "@gone.json"), "cannot read the event from gone.json: No such file"),
        (("deploy", "gone.py"), "gone.py: there is no such file or folder"),
        (("new", "Not_A_Name"), "is not a valid function name"),
        (
            ("key", "create", "--scope", "everything"),
            "'everything' is not a valid scope; the scopes are: deploy, invoke, read, admin",
        ),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(
    words: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, err.count("\n")) == (2, 1), err
    assert reason in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("up", "--functions", "gone"), "--functions gone: there is no such folder"),
        (("key", "list"), "no Redis to keep keys in"),
    ],
)
def test_a_wrong_installation_is_one_line_and_status_4(
    words: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, err.count("\n")) == (4, 1), err
    assert reason in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FunctionNotFound("x"), 2),
        (QueueFull("x"), 3),
        (NoWorker("x"), 3),
        (ApiUnreachable("x"), 3),
        (InvalidSettings("x"), 4),
        (SandlotError("x"), 1),
    ],
)
def test_an_exit_code_names_the_party_that_has_to_act(error: SandlotError, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize("runtime", list(Runtime))
def test_a_scaffold_is_a_function_at_once(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandlot.functions.source.find_node", lambda: None)  # no process in a unit test
    made = CliRunner().invoke(app, ["new", "word-count", "--runtime", runtime.value])
    assert made.exit_code == 0, made.output
    path = next((tmp_path / "functions").iterdir())
    test = (tmp_path / "tests" / "test_word_count.py").read_text()
    assert ast.parse(test)
    assert f'"functions" / "{path.name}"' in test
    name, bundle, manifest = read_path(path)
    assert (name, manifest.runtime, manifest.timeout_s, manifest.visibility) == ("word-count", runtime, 5.0, "private")
    if runtime is Runtime.PYTHON:
        ast.parse(bundle.files["word_count.py"])


def test_a_scaffold_goes_to_the_given_folder_and_keeps_an_existing_test(tmp_path: Path) -> None:
    (tmp_path / "app" / "tests").mkdir(parents=True)
    (tmp_path / "app" / "tests" / "test_import.py").write_text("mine")
    assert CliRunner().invoke(app, ["new", "import", "--functions", "app/lambdas"]).exit_code == 0
    assert (tmp_path / "app" / "tests" / "test_import.py").read_text() == "mine"
    assert CliRunner().invoke(app, ["new", "class", "--functions", "app/lambdas"]).exit_code == 0
    test = (tmp_path / "app" / "tests" / "test_class.py").read_text()
    assert "class_ = sandlot.deploy(FUNCTION)" in test
    assert '"lambdas" / "class.py"' in test
    ast.parse(test)


def test_a_scaffold_never_writes_over_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert CliRunner().invoke(app, ["new", "greet"]).exit_code == 0
    code, _, err = run("new", "greet", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, "exists already" in err) == (2, True)


def test_redis_users_are_printed_for_a_server_and_their_passwords_for_us() -> None:
    shown = CliRunner().invoke(app, ["redis-acl"])
    lines = shown.stdout.splitlines()
    assert [line.split(" ")[:4] for line in lines] == [["ACL", "SETUSER", f"sandlot-{role}", "reset"] for role in Role]
    for role, line in zip(Role, lines, strict=True):
        (password,) = re.findall(rf"redis://sandlot-{role}:(\w+)@HOST", shown.stderr)
        assert f" #{hashlib.sha256(password.encode()).hexdigest()} " in line
        assert password not in shown.stdout


def test_redis_users_take_passwords_from_stdin_and_hide_them() -> None:
    given = {role: f"{role}-is-long-enough-now" for role in Role}
    stdin = "\n".join(f"{role} {password}" for role, password in given.items())
    shown = CliRunner().invoke(app, ["redis-acl", "--aclfile", "--passwords"], input=stdin)
    assert shown.stdout.splitlines() == [DEFAULT_USER, *(f"user {user_rules(role, given[role])}" for role in Role)]
    assert not [password for password in given.values() if password in shown.output]


@pytest.mark.parametrize(
    ("stdin", "reason"),
    [
        ("api 0123456789abcdef\n", "no password for: worker, admin, metrics"),
        ("root 0123456789abcdef\n", "'root' is not a valid role"),
        ("api 0123456789abcdef\napi another-one-123456\n", "api has two passwords"),
        ("\n".join(f"{role} sh0rt" for role in Role), "the password of api has 5 characters"),
        ("\n".join(f"{role} with a space in it" for role in Role), "without spaces"),
    ],
)
def test_unusable_passwords_are_refused_without_showing_them(stdin: str, reason: str) -> None:
    error = CliRunner().invoke(app, ["redis-acl", "--passwords"], input=stdin).exception
    assert isinstance(error, CallerError)
    assert reason in error.message
    assert "sh0rt" not in error.message


@pytest.mark.slow
def test_the_command_line_costs_no_import_until_a_command_runs() -> None:
    script = "import sys, sandlot.cli; print([name for name in ('asyncio', 'httpx', 'redis', 'pydantic', 'rich', 'rq', 'watchfiles') if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


@pytest.mark.slow
def test_calling_a_function_costs_no_import_of_redis() -> None:
    script = (
        "import sys, sandlot.cli\n"
        "sys.argv = ['sandlot', 'invoke', 'hello', '--url', 'http://127.0.0.1:9']\n"
        "try:\n    sandlot.cli.main()\n"
        "except SystemExit as ended:\n    print(ended.code)\n"
        "print([name for name in ('redis', 'rq', 'watchfiles') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "3\n[]\n"
