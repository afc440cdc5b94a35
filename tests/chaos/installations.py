"""Two versions of Sandlot, installed side by side as docs/upgrades.md describes.

Each is a wheel in an environment, with a link to the current one. Both take their dependencies
from the environment of the tests, so that they differ in Sandlot alone.
"""

from __future__ import annotations

import re
import shutil
import site
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
PARTS: Final = ("sandlot", "api", "worker", "runtimes", "pyproject.toml", "README.md", "LICENSE")

RELEASED: Final = "c8118ca79fc3785b8c36bef3847dcfc9fddecd87"
"""Stands for the previous release until tags exist: older code with the same schema."""


def why_no_uv() -> str:
    return "" if _uv() else "uv is not installed here; make setup brings it"


def why_no_history() -> str:
    git = ["git", "-C", str(REPOSITORY), "cat-file", "-e", f"{RELEASED}^{{commit}}"]
    try:
        known = subprocess.run(git, capture_output=True, timeout=30, check=False).returncode == 0
    except FileNotFoundError:
        known = False
    return "" if known else f"commit {RELEASED[:7]} is not here: a shallow clone or no repository"


def released_tree(folder: Path) -> Path:
    """The code of the release before this one."""
    archive = folder / "released.tar"
    with archive.open("wb") as file:
        subprocess.run(["git", "-C", str(REPOSITORY), "archive", RELEASED, *PARTS], stdout=file, timeout=60, check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "released", filter="data")
    return folder / "released"


def this_tree(folder: Path) -> Path:
    """A copy, to be changed."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for name in PARTS:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy(source, tree)
    return tree


def change(tree: Path, path: str, pattern: str, becomes: str) -> None:
    """One line of a copy."""
    text, times = re.subn(pattern, becomes, (tree / path).read_text(), flags=re.MULTILINE)
    assert times == 1, f"{path} has {times} lines {pattern}"
    (tree / path).write_text(text)


def install(tree: Path, version: str, folder: Path) -> Path:
    """Its wheel, under this version, in an environment of its own: `folder/sandlot-VERSION`."""
    change(tree, "pyproject.toml", r'^version = ".*"$', f'version = "{version}"')
    home = folder / f"sandlot-{version}"
    wheels = folder / f"wheels-{version}"
    _run("build", "--quiet", "--wheel", "--out-dir", str(wheels), str(tree))
    _run("venv", "--quiet", "--python", sys.executable, str(home))
    (wheel,) = wheels.glob("*.whl")
    _run(
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--compile-bytecode",
        "--python",
        str(home / "bin" / "python"),
        str(wheel),
    )
    (packages,) = (home / "lib").glob("python3.*/site-packages")
    # After its own: `sandlot` is found there first, and so is its metadata.
    (packages / "depends.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return home


def link(home: Path, at: Path) -> None:
    """`ln -sfn`: what is started there from now on is this version."""
    beside = at.with_name(f"{at.name}.new")
    beside.symlink_to(home)
    beside.rename(at)


def _uv() -> str | None:
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.is_file() else shutil.which("uv")


def _run(*words: str) -> None:
    done = subprocess.run([str(_uv()), *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
