"""Check a lock that came out of a sandbox, before it is signed and before anything is installed.

A resolver may run foreign code (a package built from source), so its lock may say anything. A lock
that passes names packages of an index by version and hash, and has no option, address or path that
uv or npm would obey.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from packaging.requirements import InvalidRequirement, Requirement

from sandlot.functions.dependencies import LOCK_LIMIT_BYTES
from sandlot.models import Runtime
from worker.builder.package_files import BuildFailed

_HASH: Final = re.compile(r"\s--hash=sha256:[0-9a-f]{64}(?=\s|$)")
_INTEGRITY: Final = re.compile(r"^(sha(1|256|384|512)-[A-Za-z0-9+/]+=*(\s+|$))+$")
_SHOWN: Final = 120


def check_lock(runtime: Runtime, text: object) -> str:
    """Return the text of a lock that is safe to install from.

    Raises:
        BuildFailed: it is not text, is too long, or says more than names, versions and hashes.
    """
    if not isinstance(text, str) or len(text.encode("utf-8", "surrogatepass")) > LOCK_LIMIT_BYTES:
        raise BuildFailed(f"the dependencies resolve to a list of more than {LOCK_LIMIT_BYTES} bytes")
    if runtime is Runtime.PYTHON:
        _check_requirements(text)
    else:
        _check_package_lock(text)
    return text


def _check_requirements(text: str) -> None:
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        entry = line.strip()
        if entry and not entry.startswith("#"):
            _check_requirement(entry)


def _check_requirement(entry: str) -> None:
    stated = _HASH.sub("", entry).strip()
    try:
        requirement = Requirement(stated)
    except InvalidRequirement as error:
        raise _refused(entry) from error
    pins = list(requirement.specifier)
    pinned = len(pins) == 1 and pins[0].operator == "==" and not pins[0].version.endswith(".*")
    if requirement.url or not pinned or not _HASH.search(entry):
        raise _refused(entry)


def _check_package_lock(text: str) -> None:
    try:
        packages = msgspec.json.decode(text, type=dict[str, Any]).get("packages")
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise BuildFailed(f"the lock that npm wrote is not a JSON object: {error}") from error
    if not isinstance(packages, dict) or not isinstance(packages.get(""), dict):
        raise BuildFailed('the lock that npm wrote has no "packages" with the function itself in it')
    for path, package in packages.items():
        if path:
            _check_package(path, package)


def _check_package(path: str, package: object) -> None:
    if not path.startswith("node_modules/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise _refused(path)
    if not isinstance(package, dict) or package.get("link"):
        raise _refused(path)
    if package.get("inBundle"):
        return  # part of the package that it lies in, whose hash covers it
    resolved, integrity = package.get("resolved"), package.get("integrity")
    if not isinstance(resolved, str) or not isinstance(integrity, str) or not _INTEGRITY.match(integrity):
        raise _refused(path)
    if urlsplit(resolved).scheme not in ("http", "https"):
        raise _refused(f"{path}: {resolved}")


def _refused(entry: str) -> BuildFailed:
    return BuildFailed(
        f"the resolved dependencies contain {entry[:_SHOWN]!r}: only packages from the index, with one exact version "
        "and a hash, can be installed"
    )
