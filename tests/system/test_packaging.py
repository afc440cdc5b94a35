"""The wheel: built from the tree, installed into an empty environment and run from `/`.

It adds one name to site-packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.system.up_process import REPOSITORY, clean_environment
from tests.waiting import HANG_S, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with hatchling, from the dev environment if present; needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", ".sandlot", "build", "dist", "__pycache__", "node_modules", ".*_cache"
    )
    shutil.copytree(REPOSITORY, source, ignore=ignored)
    built = subprocess.run(
        [_uv(), "build", "--wheel", "--out-dir", str(folder), str(source)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([_uv(), "venv", "--quiet", "--python", sys.executable, str(folder)], timeout=HANG_S, check=True)
    added = subprocess.run(
        [_uv(), "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), str(wheel)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert added.returncode == 0, added.stderr
    return folder


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        pytest.skip("uv is not installed here; make setup brings it")
    return found


def test_the_wheel_puts_the_server_under_one_private_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"sandlot", f"sandlot-{metadata.version('sandlot')}.dist-info"}
    for expected in (
        "sandlot/_server/api/app.py",
        "sandlot/_server/worker/__main__.py",
        "sandlot/_server/runtimes/python/runner.py",
        "sandlot/_server/runtimes/node/runner.cjs",
        "sandlot/redis/scripts/functions/deploy.lua",
        "sandlot/functions/parse.cjs",
    ):
        assert expected in names
    product = {name: name.lower().removesuffix("sandlot/testing.py").replace("/selftest/", "/") for name in names}
    assert not [name for name, rest in product.items() if "test" in rest or name.endswith(".deb")]


def test_site_packages_get_exactly_one_package(installed: Path) -> None:
    (site,) = (installed / "lib").glob("python3.*/site-packages")
    ours = {path.parts[0] for path in metadata.PathDistribution(next(site.glob("sandlot-*.dist-info"))).files or []}
    assert {name for name in ours if not name.startswith((".", "sandlot-"))} == {"sandlot"}
    assert not [name for name in ("api", "worker", "runtimes") if (site / name).exists()]


def test_the_command_prints_its_version_from_any_folder(installed: Path) -> None:
    shown = subprocess.run(
        [installed / "bin" / "sandlot", "--version"],
        cwd="/",
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"sandlot {metadata.version('sandlot')}\n"


def test_the_installed_command_ignores_files_in_the_working_folder(installed: Path, tmp_path: Path) -> None:
    """Files named like our packages and standard modules lie in the working folder.

    They lie in the functions' folder too.
    """
    functions = tmp_path / "functions"
    functions.mkdir()
    (functions / "hello.py").write_text(
        '# /// script\n# [tool.sandlot]\n# visibility = "public"\n# ///\ndef handler(event, context):\n    return "installed"\n'
    )
    for name in ("api", "worker", "json", "sandlot"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module was imported')\n")
    around = os.listdir("/")
    for folder in ("/", str(tmp_path)):
        data = tmp_path / f"data-{len(folder)}"
        command = [
            str(installed / "bin" / "sandlot"),
            "up",
            "--port",
            "0",
            "--data",
            str(data),
            "--functions",
            str(functions),
        ]
        output = tmp_path / f"output-{len(folder)}"
        with output.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=clean_environment(),
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        try:
            until(
                lambda output=output, process=process: (
                    "Ctrl+C stops everything" in output.read_text() or process.poll() is not None
                ),
                reason=output.read_text,
            )
            assert process.poll() is None, output.read_text()
            shown = subprocess.run(
                [installed / "bin" / "sandlot", "invoke", "hello"],
                cwd=folder,
                env=clean_environment() | {"SANDLOT_DATA": str(data)},
                capture_output=True,
                text=True,
                timeout=HANG_S,
                check=False,
            )
            assert (shown.returncode, shown.stdout) == (0, '"installed"\n'), shown.stderr
        finally:
            process.terminate()
            assert process.wait(30) == 0
    assert os.listdir("/") == around, "something was left in the folder it was started from"


def test_doctor_finds_the_installed_sandbox(installed: Path, tmp_path: Path) -> None:
    shown = subprocess.run(
        [installed / "bin" / "sandlot", "doctor", "--json"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert '"name": "Python"' in shown.stdout, shown.stderr
    assert '"name": "Sandbox' in shown.stdout
