"""Dependencies: requirements as people write them, and the signed lock that they were resolved to.

Requirements come from a manifest, a `requirements.txt` or a `package.json`. How they are resolved
is in `worker/builder`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from sandlot.errors import InvalidManifest, UnsafeRecord
from sandlot.models import Runtime

REQUIREMENTS_LIMIT: Final = 100
REQUIREMENT_LIMIT: Final = 500
"""Characters of one requirement."""
_PACKAGE: Final = re.compile(r"^(@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*$")
_RANGE: Final = re.compile(r"^[0-9A-Za-z.*^~<>=| +-]*$")
_COMMENT: Final = re.compile(r"(^|\s)#.*$")
_OPTIONS: Final = {
    "--hash": "Sandlot computes hashes itself, in the lock that it writes after a deploy",
    "--index-url": "the operator chooses the index (SANDLOT_PYTHON_INDEX_URL)",
    "-i": "the operator chooses the index (SANDLOT_PYTHON_INDEX_URL)",
    "--extra-index-url": "the only index is the one that the operator chose (SANDLOT_PYTHON_INDEX_URL)",
    "-r": "write the requirements themselves here",
    "--requirement": "write the requirements themselves here",
    "-c": "write the version bounds into the requirements",
    "--constraint": "write the version bounds into the requirements",
    "-e": "only packages from the index can be installed; put other code beside the function",
    "--editable": "only packages from the index can be installed; put other code beside the function",
}
_OTHER_KINDS: Final = ("optionalDependencies", "bundleDependencies", "bundledDependencies", "overrides", "workspaces")
LOCK_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""A lock of 100 packages with the hashes of all their files has about 500 KiB."""
_PURPOSE: Final = b"sandlot.lock.1\n"
_SIGNATURE_LENGTH: Final = 64


class BadRequirement(ValueError):
    """Requirement that is not acceptable; `text` is the requirement as written."""

    def __init__(self, text: str, message: str) -> None:
        super().__init__(message)
        self.text = text


def check_requirements(requirements: Sequence[str], runtime: Runtime) -> None:
    """Check every requirement.

    Raises:
        BadRequirement: the first one that is not acceptable.
    """
    if len(requirements) > REQUIREMENTS_LIMIT:
        raise BadRequirement(
            requirements[REQUIREMENTS_LIMIT],
            f"{len(requirements)} are listed; at most {REQUIREMENTS_LIMIT} are allowed",
        )
    seen: dict[str, str] = {}
    for text in requirements:
        if len(text) > REQUIREMENT_LIMIT:
            raise BadRequirement(
                text, f"{text[:80]!r}… has {len(text)} characters; at most {REQUIREMENT_LIMIT} are allowed"
            )
        name = _python_name(text) if runtime is Runtime.PYTHON else split_package(text)[0]
        if name in seen:
            raise BadRequirement(text, f"{text!r} and {seen[name]!r} are the same package; list it once")
        seen[name] = text


def _python_name(text: str) -> str:
    if text.startswith("-"):
        option = re.split(r"[\s=]", text)[0]
        raise BadRequirement(
            text, f"{text!r} is an option of pip: {_OPTIONS.get(option, 'only requirements are allowed here')}"
        )
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise BadRequirement(
            text, f'{text!r} is not a requirement: {reason}. Write a name and versions, as in "numpy>=2,<3"'
        ) from error
    if requirement.url:
        raise BadRequirement(
            text,
            f"{text!r} names an address: only packages from the index can be installed; put other code beside the function",
        )
    # The same package may be listed twice with different markers.
    return canonicalize_name(requirement.name) + (f"; {requirement.marker}" if requirement.marker else "")


def split_package(text: str) -> tuple[str, str]:
    """Return name and range of `lodash@^4` or `@scope/name`.

    Without a range, any version matches (`*`).

    Raises:
        BadRequirement: the text has another form.
    """
    name, _, wanted = text[1:].partition("@")
    name = text[:1] + name
    if not _PACKAGE.match(name) or len(name) > 214:
        raise BadRequirement(text, f'{text!r} is not an npm package: write a name and versions, as in "lodash@^4.17.0"')
    if not _RANGE.match(wanted):
        raise BadRequirement(
            text, f"{text!r}: {wanted!r} is not a version range; only packages from the registry can be installed"
        )
    return name, wanted.strip() or "*"


def read_requirements_file(label: str, content: bytes) -> list[str]:
    """Return the requirements in a `requirements.txt`.

    Raises:
        InvalidManifest: a line is not a requirement; the message names it.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidManifest(f"{label}:{line}: not UTF-8 text: {error.reason}") from error
    found = list(_logical_lines(text))
    _check_lines(label, found, Runtime.PYTHON)
    return [requirement for _, requirement in found]


def read_package_file(label: str, content: bytes) -> list[str]:
    """Return the dependencies in a `package.json` as `name@range`.

    Development dependencies are left out.

    Raises:
        InvalidManifest: the file is malformed or asks for something that is not supported; the
            message names the line.
    """
    try:
        package = msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"{label}: not a JSON object: {error}") from error
    lines = content.decode("utf-8", "replace").splitlines()
    for key in _OTHER_KINDS:
        if package.get(key):
            raise InvalidManifest(
                f'{label}:{_line_with(lines, key)}: "{key}" has no effect: list what is needed in "dependencies"'
            )
    dependencies = package.get("dependencies") or {}
    if not isinstance(dependencies, dict) or not all(isinstance(wanted, str) for wanted in dependencies.values()):
        raise InvalidManifest(
            f'{label}:{_line_with(lines, "dependencies")}: "dependencies" is not an object of names and ranges'
        )
    found = [(_line_with(lines, name), f"{name}@{wanted}" if wanted else name) for name, wanted in dependencies.items()]
    _check_lines(label, found, Runtime.NODE)
    return [requirement for _, requirement in found]


def _check_lines(label: str, found: list[tuple[int, str]], runtime: Runtime) -> None:
    try:
        check_requirements([requirement for _, requirement in found], runtime)
    except BadRequirement as error:
        # Of two equal requirements, the second one is reported.
        line = next(line for line, requirement in reversed(found) if requirement == error.text)
        raise InvalidManifest(f"{label}:{line}: {error}") from error


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each requirement with the number of its first line.

    Comments are removed, and lines that end in a backslash are joined with the next.
    """
    joined, first = "", 0
    for line, raw in enumerate([*text.splitlines(), ""], 1):
        first = first if joined else line
        joined += raw
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        requirement = _COMMENT.sub("", joined).strip()
        joined = ""
        if requirement:
            # pip-compile writes hashes after the requirement.
            before, option, _ = requirement.partition(" --hash")
            yield first, f"{option.strip()}" if before and option else requirement


def _line_with(lines: Iterable[str], key: str) -> int:
    return next((number for number, line in enumerate(lines, 1) if f'"{key}"' in line), 1)


class Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Packages with their exact versions and hashes.

    The text is in the format of uv (a requirements file) or npm (`package-lock.json`).
    """

    runtime: Runtime
    text: str
    source_builds: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 in lowercase hex.

        Versions with equal locks share the packages that are installed from it.
        """
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


def seal_lock(lock: Lock, version_digest: str, signing_key: bytes) -> bytes:
    """Return the record of a lock: a signature in hex, then JSON.

    The signature is valid for this version only.
    """
    text = msgspec.json.encode(lock)
    return _signature(text, version_digest, signing_key) + text


def open_lock(sealed: bytes, version_digest: str, signing_key: bytes) -> Lock:
    """Return the lock of this version.

    Raises:
        UnsafeRecord: the lock is missing, was not signed with this key, or belongs to another
            version.
    """
    signature, text = sealed[:_SIGNATURE_LENGTH], sealed[_SIGNATURE_LENGTH:]
    if not hmac.compare_digest(signature, _signature(text, version_digest, signing_key)):
        raise UnsafeRecord(
            f"the lock of version {version_digest[:12]}… in Redis is not signed with this signing key: deploy the function again"
        )
    try:
        return msgspec.json.decode(text, type=Lock)
    except msgspec.MsgspecError as error:
        raise UnsafeRecord(
            f"the lock of version {version_digest[:12]}… cannot be read by this release: {error}"
        ) from error


def _signature(text: bytes, version_digest: str, signing_key: bytes) -> bytes:
    return hmac.digest(signing_key, _PURPOSE + version_digest.encode() + b"\n" + text, "sha256").hex().encode()
