"""Package indexes: their addresses, hosts and credentials, and the folders of uv and npm."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from uv import find_uv_bin

from sandlot.errors import InvalidSettings
from sandlot.functions.dependencies import Lock, split_package
from sandlot.models import Runtime
from sandlot.settings import Settings

INSIDE: Final = {
    Runtime.PYTHON: (Path(__file__).parent / "inside_python", "main.handler"),
    Runtime.NODE: (Path(__file__).parent / "inside_node", "index.handler"),
}
"""For each runtime, the folder of the function that builds, and its handler."""
OFF: Final = "off"
"""Stands in place of an index address: nothing is installed for that runtime."""
_SETTING: Final = {Runtime.PYTHON: "SANDLOT_PYTHON_INDEX_URL", Runtime.NODE: "SANDLOT_NPM_REGISTRY_URL"}
_HIDDEN: Final = "***"


@dataclass(frozen=True, slots=True)
class PackageIndexes:
    """The operator's choice of indexes.

    Holds credentials: they are never printed and go to builds only.
    """

    python_index: str
    npm_registry: str
    npm_token: str
    other_hosts: tuple[str, ...]
    certificates: str
    tools: dict[Runtime, Path]
    """For each runtime that can be built for: the folder with uv or that of npm."""

    def __repr__(self) -> str:
        return f"PackageIndexes(hosts={self.hosts(Runtime.PYTHON)}, {self.hosts(Runtime.NODE)})"

    def index(self, runtime: Runtime) -> str:
        return self.python_index if runtime is Runtime.PYTHON else self.npm_registry

    def obstacle(self, runtime: Runtime) -> str:
        """Say why this worker cannot install packages for a runtime; empty if it can."""
        if self.index(runtime) == OFF:
            return (
                f"no {runtime} packages are installed here: {_SETTING[runtime]} is `off` on the workers; "
                "the operator can name an index (docs/operations.md)"
            )
        if runtime not in self.tools:
            return "this worker has no npm beside its Node, and Node packages are installed with npm"
        return ""

    def hosts(self, runtime: Runtime) -> tuple[str, ...]:
        """Return the hosts that the sandbox may reach: the index and the servers of its files."""
        parts = urlsplit(self.index(runtime))
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        return (f"{host}:{parts.port}" if parts.port else host, *self.other_hosts)

    def event(self, runtime: Runtime, **request: object) -> dict[str, Any]:
        """Return the event for the function that builds: the request, index and credentials."""
        return {
            **request,
            "index": self.index(runtime),
            "token": self.npm_token if runtime is Runtime.NODE else "",
            "certificates": self.certificates,
        }

    def without_secrets(self, text: str) -> str:
        """Mask credentials in output of uv or npm, which is stored, logged and shown."""
        password = urlsplit(self.python_index).password or ""
        for secret in sorted({password, unquote(password), self.npm_token} - {""}, key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return text


def read_indexes(settings: Settings, node: Path | None) -> PackageIndexes:
    """Read the indexes from the settings.

    Raises:
        InvalidSettings: an index is not an http(s) address, or a file cannot be read.
    """
    python_index = settings.read_python_index()
    for runtime, url in ((Runtime.PYTHON, python_index), (Runtime.NODE, settings.npm_registry_url)):
        parts = urlsplit(url)
        if url != OFF and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise InvalidSettings(
                f"{_SETTING[runtime]} is neither an http:// or https:// address of an index nor `off`"
            )
    npm = find_npm(node)
    return PackageIndexes(
        python_index=python_index,
        npm_registry=settings.npm_registry_url,
        npm_token=settings.read_npm_token(),
        other_hosts=tuple(host.strip() for host in settings.build_hosts.split(",") if host.strip()),
        certificates=settings.read_certificates(),
        tools={Runtime.PYTHON: settings.data.resolve() / "tools" / f"uv-{version('uv')}"}
        | ({Runtime.NODE: npm} if npm else {}),
    )


def provide_uv(folder: Path) -> None:
    """Fill a folder with uv and nothing else, to be mounted in the sandbox.

    Several workers may do this at once.

    Raises:
        OSError: the folder cannot be written.
    """
    if (folder / "uv").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".uv-{os.getpid()}"
    shutil.copyfile(find_uv_bin(), beside)
    beside.chmod(0o755)
    beside.rename(folder / "uv")


def find_npm(node: Path | None) -> Path | None:
    """Return the folder of npm: the one that came with this node, else the one on PATH."""
    if node is None:
        return None
    beside = Path(os.path.realpath(node)).parent.parent / "lib" / "node_modules" / "npm"
    found = shutil.which("npm")
    candidates = [beside, *([Path(os.path.realpath(found)).parent.parent] if found else [])]
    return next((folder for folder in candidates if (folder / "bin" / "npm-cli.js").is_file()), None)


def requirements_of(runtime: Runtime, dependencies: tuple[str, ...]) -> object:
    """Return the dependencies as uv reads them (a list), or as npm does (an object)."""
    if runtime is Runtime.PYTHON:
        return list(dependencies)
    return dict(split_package(dependency) for dependency in dependencies)


def tree_name(lock: Lock, function: str) -> str:
    """Return the digest that names a tree: of the lock, of what compiled code depends on, and of
    the function that trusts it.

    Installing wheels, or npm packages without their scripts, runs no foreign code, so the hashes in
    the lock determine every byte and all functions may share the tree. A tree that foreign code
    took part in belongs to the versions of one function.
    """
    machine = sysconfig.get_platform()
    if lock.runtime is Runtime.PYTHON:
        machine += f" {sys.implementation.cache_tag}"
    trusted_by = f" {function}" if lock.source_builds else ""
    return hashlib.sha256(f"{lock.digest} {machine}{trusted_by}".encode()).hexdigest()
