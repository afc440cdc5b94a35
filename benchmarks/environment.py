"""Installation of the peers, once, into environments of their own under build/bench.

No peer enters Sandlot's own environment: its pins must not affect Sandlot's.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PEERS: Final = Path(__file__).with_name("peers")
CACHE: Final = ROOT / "build" / "bench"
INSTALL_LIMIT_S: Final = 600


class InstallFailed(Exception):
    """A peer could not be installed; the message ends with the installer's output."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The peers' interpreters.

    `node` is None on a machine without Node and npm, and the peer that needs them is left out.
    """

    python: Path
    arq_python: Path
    """arq requires an older redis-py than the other peers."""
    node: Path | None
    node_folder: Path


def prepare() -> Environment:
    """Install peers that are missing or differ from the pinned version.

    Raises:
        InstallFailed: an installer failed.
    """
    node_folder = CACHE / "node"
    return Environment(
        python=_python(CACHE / "python", PEERS / "requirements.txt"),
        arq_python=_python(CACHE / "python-arq", PEERS / "requirements-arq.txt"),
        node=_node(node_folder),
        node_folder=node_folder,
    )


def _python(folder: Path, requirements: Path) -> Path:
    python = folder / "bin" / "python"
    if not _is_current(folder, [requirements]):
        shutil.rmtree(folder, ignore_errors=True)
        if uv := _uv():
            _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
            _run([uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)])
        else:
            _run([sys.executable, "-m", "venv", str(folder)])
            _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
        _stamp(folder, [requirements])
    return python


def _node(folder: Path) -> Path | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    locks = [PEERS / "package.json", PEERS / "package-lock.json"]
    if not _is_current(folder, locks):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for lock in locks:
            shutil.copy(lock, folder)
        _run([npm, "ci", "--no-audit", "--no-fund", "--prefix", str(folder)])
        _stamp(folder, locks)
    # An ES module finds its packages only in folders beside or above itself.
    shutil.copy(PEERS / "koa_safeify.mjs", folder)
    return Path(node)


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return shutil.which("uv") or (str(beside) if beside.exists() else None)


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files) + sys.version.encode()).hexdigest()


def _is_current(folder: Path, files: Sequence[Path]) -> bool:
    stamp = folder / "installed"
    return stamp.exists() and stamp.read_text(encoding="ascii") == _digest(files)


def _stamp(folder: Path, files: Sequence[Path]) -> None:
    (folder / "installed").write_text(_digest(files), encoding="ascii")


def _run(argv: Sequence[str]) -> None:
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise InstallFailed(f"{' '.join(argv[:3])} … took more than {INSTALL_LIMIT_S} s") from error
    if ran.returncode != 0:
        raise InstallFailed(
            f"{' '.join(argv[:3])} … ended with {ran.returncode}: {(ran.stderr or ran.stdout).strip()[-800:]}"
        )
