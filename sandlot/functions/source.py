"""Sources of functions, read into a name, a bundle and a manifest.

A source is a file, a folder or text in a request. All functions here read files and may start
Node's parser, so an event loop calls them in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Final

from sandlot.errors import InvalidManifest
from sandlot.functions.bundle import FILES_LIMIT, TOTAL_LIMIT_BYTES, Bundle
from sandlot.functions.dependencies import read_package_file, read_requirements_file
from sandlot.functions.manifest import Manifest, MissingSetting
from sandlot.functions.manifest_text import given_manifest, node_manifest, python_manifest, toml_manifest
from sandlot.functions.syntax import check_node, check_python, check_python_handler, decode, find_node
from sandlot.models import FUNCTION_NAME, Runtime

MANIFEST_FILE: Final = "function.toml"
_RUNTIME_OF: Final = {".py": Runtime.PYTHON, ".js": Runtime.NODE, ".mjs": Runtime.NODE, ".cjs": Runtime.NODE}
_MAIN_FILES: Final = ("main.py", "index.mjs", "index.js", "index.cjs")
_REQUIREMENTS: Final = "requirements.txt"
_PACKAGE: Final = "package.json"
_CACHE: Final = "__pycache__"


def function_name(path: Path) -> str:
    """Return the function name that a file or folder implies.

    It is the path's own name, in lowercase, with hyphens for underscores.

    Raises:
        InvalidManifest: that is not a valid function name.
    """
    stem = path.stem if path.suffix in _RUNTIME_OF else path.name
    name = stem.lower().replace("_", "-")
    if not FUNCTION_NAME.match(name):
        raise InvalidManifest(
            f"{path.name}: {name!r} is not a valid function name: use a lowercase letter followed by up to 62 lowercase letters, digits and hyphens"
        )
    return name


def function_paths(folder: Path) -> list[Path]:
    """Return the paths in a folder that are functions.

    These are source files, and folders with a `function.toml`. Names that begin with `_` or `.` are
    left out.
    """
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(("_", "."))]
    return [
        path for path in found if (path.suffix in _RUNTIME_OF and path.is_file()) or (path / MANIFEST_FILE).is_file()
    ]


def read_path(path: Path, *, name: str | None = None, node: Path | None = None) -> tuple[str, Bundle, Manifest]:
    """Return the function in this file or folder: its name, bundle and manifest.

    Args:
        name: name of the function; without it, the path implies the name.

    Raises:
        InvalidManifest: it is not a valid function; the message names file and line.
    """
    if path.is_file() and path.suffix not in _RUNTIME_OF:
        raise InvalidManifest(
            f"{path.name}: not a function, which is a source file ({', '.join(_RUNTIME_OF)}), a folder or a zip"
        )
    name = name or function_name(path)
    try:
        if path.is_dir():
            bundle, manifest = _folder(folder_files(path), path.name + "/", {}, node)
        else:
            bundle, manifest = _single(path.name, path.read_bytes(), {}, node)
    except OSError as error:
        raise InvalidManifest(f"{error.filename or path}: cannot be read: {error.strerror}") from error
    return name, bundle, manifest


def read_source(
    name: str, filename: str | None, source: str, manifest: Mapping[str, Any] | None = None, *, node: Path | None = None
) -> tuple[Bundle, Manifest]:
    """Return the function in this text; keys in `manifest` override those in the text.

    Args:
        filename: name of the file, which implies its runtime; without it, the runtime in `manifest`
            (default: Python) implies the name.

    Raises:
        InvalidManifest: it is not a valid function; the message names file and line.
    """
    given = dict(manifest or {})
    if filename is None:
        filename = name.replace("-", "_") + (".js" if given.get("runtime") == Runtime.NODE else ".py")
    if "/" in filename or PurePosixPath(filename).suffix not in _RUNTIME_OF:
        raise InvalidManifest(
            f"{filename!r} is not the name of a source file: use one that ends in {', '.join(_RUNTIME_OF)}"
        )
    return _single(filename, source.encode("utf-8", "surrogatepass"), given, node)


def read_files(
    files: Mapping[str, bytes], manifest: Mapping[str, Any] | None = None, *, node: Path | None = None
) -> tuple[Bundle, Manifest]:
    """Return the function in these files, laid out as in a folder.

    A single source file is a function as it is.

    Raises:
        InvalidManifest: they are not a valid function; the message names file and line.
    """
    given = dict(manifest or {})
    if (
        len(files) == 1
        and (only := next(iter(files)))
        and PurePosixPath(only).suffix in _RUNTIME_OF
        and "/" not in only
    ):
        return _single(only, files[only], given, node)
    return _folder(dict(files), "", given, node)


def _single(filename: str, content: bytes, given: dict[str, Any], node: Path | None) -> tuple[Bundle, Manifest]:
    file = PurePosixPath(filename)
    text = decode(filename, content)
    runtime = _RUNTIME_OF[file.suffix]
    defaults = {"runtime": runtime.value, "handler": f"{file.stem}.handler"}
    written = (
        python_manifest(filename, text, defaults)
        if runtime is Runtime.PYTHON
        else node_manifest(filename, text, defaults)
    )
    manifest = _on_top(filename, written, given)
    if manifest.runtime is not runtime:
        raise InvalidManifest(
            f'{filename}: runtime = "{manifest.runtime}" does not match a file that ends in {file.suffix}'
        )
    bundle = Bundle({filename: content})
    _check(bundle, manifest, "", node)
    return bundle, manifest


def _folder(files: dict[str, bytes], prefix: str, given: dict[str, Any], node: Path | None) -> tuple[Bundle, Manifest]:
    written = files.pop(MANIFEST_FILE, None)
    bundle = Bundle(files)
    defaults: dict[str, Any] = dict(_implied_by(bundle))
    listing, listed = _listed_dependencies(bundle, prefix)
    if listed:
        defaults["dependencies"] = listed
    label = prefix + MANIFEST_FILE
    try:
        if written is None:
            manifest = given_manifest("manifest", given, defaults)
        else:
            manifest = _on_top(label, toml_manifest(label, decode(label, written), {**defaults, **given}), given)
    except InvalidManifest as error:
        if isinstance(error.__cause__, MissingSetting):
            raise InvalidManifest(f"{error}. {_why_not_implied(bundle)}") from error
        raise
    _require_one_list(prefix + listing, listed, manifest)
    _check(bundle, manifest, prefix, node)
    return bundle, manifest


def _on_top(where: str, written: Manifest, given: Mapping[str, Any]) -> Manifest:
    return given_manifest(where, given, written.to_table()) if given else written


def _implied_by(bundle: Bundle) -> dict[str, str]:
    """Return the runtime and handler that the files imply.

    They imply them if exactly one of the usual main files is there; else the manifest has to name
    them.
    """
    mains = [name for name in _MAIN_FILES if name in bundle.files]
    if len(mains) != 1:
        return {}
    main = PurePosixPath(mains[0])
    return {"runtime": _RUNTIME_OF[main.suffix].value, "handler": f"{main.stem}.handler"}


def _why_not_implied(bundle: Bundle) -> str:
    mains = [name for name in _MAIN_FILES if name in bundle.files]
    if mains:
        return f"Both {' and '.join(mains)} exist, so the main file is ambiguous"
    deeper = next((path for path in bundle.files if PurePosixPath(path).name in _MAIN_FILES), "")
    if deeper:
        return f"{deeper} is one folder too deep: send the contents of {PurePosixPath(deeper).parent}/"
    return (
        f"Without {', '.join(_MAIN_FILES[:-1])} or {_MAIN_FILES[-1]} it is not implied; the files are: {_some(bundle)}"
    )


def _some(bundle: Bundle) -> str:
    return ", ".join(list(bundle.files)[:5]) or "none"


def _check(bundle: Bundle, manifest: Manifest, prefix: str, node: Path | None) -> None:
    """Check that every source file parses and that the handler is where the manifest says."""
    entry, function = _entry(bundle, manifest, prefix)
    for filename, content in bundle.files.items():
        path = PurePosixPath(filename)
        if manifest.runtime is Runtime.PYTHON and path.suffix == ".py":
            tree = check_python(prefix + filename, decode(prefix + filename, content))
            if filename == entry:
                check_python_handler(prefix + filename, tree, function)
        elif manifest.runtime is Runtime.NODE and filename == entry:
            check_node(prefix + filename, decode(prefix + filename, content), node or find_node())


def _entry(bundle: Bundle, manifest: Manifest, prefix: str) -> tuple[str, str]:
    """Return the file and the function that `handler = "file.function"` means in this bundle."""
    module, _, function = manifest.handler.rpartition(".")
    if manifest.runtime is Runtime.PYTHON:
        candidates = [
            form for base in (module, module.replace(".", "/")) for form in (base, f"{base}.py", f"{base}/__init__.py")
        ]
    else:
        candidates = [module, *(module + suffix for suffix in (".mjs", ".js", ".cjs"))]
    for candidate in candidates:
        if candidate in bundle.files:
            return candidate, function
    raise InvalidManifest(
        f'{prefix or "the function"}: handler = "{manifest.handler}" names a file that does not exist; the files are: {_some(bundle)}'
    )


def _listed_dependencies(bundle: Bundle, prefix: str) -> tuple[str, list[str]]:
    """Return the name of the file that lists the function's dependencies, and what it lists."""
    python = read_requirements_file(prefix + _REQUIREMENTS, bundle.files.get(_REQUIREMENTS, b""))
    vendored = any(path.startswith("node_modules/") for path in bundle.files)
    node = []
    if _PACKAGE in bundle.files and not vendored:
        node = read_package_file(prefix + _PACKAGE, bundle.files[_PACKAGE])
    if python and node:
        raise InvalidManifest(
            f"{prefix}{_REQUIREMENTS} and {_PACKAGE} both list dependencies, but a function has one runtime"
        )
    return (_PACKAGE, node) if node else (_REQUIREMENTS, python)


def _require_one_list(label: str, listed: list[str], manifest: Manifest) -> None:
    """Refuse a list of dependencies that would not be installed."""
    if not listed:
        return
    belongs_to = Runtime.NODE if label.endswith(_PACKAGE) else Runtime.PYTHON
    if manifest.runtime is not belongs_to:
        raise InvalidManifest(
            f'{label}: lists dependencies for {belongs_to}, but the function has runtime = "{manifest.runtime}"'
        )
    if list(manifest.dependencies) != listed:
        raise InvalidManifest(f"{label}: the manifest lists other dependencies; list them in one place only")


def is_left_out(relative: PurePath) -> bool:
    """Return whether a file stays out of bundles.

    Hidden files and the output of Python's compiler do.
    """
    return any(part.startswith(".") or part == _CACHE for part in relative.parts) or relative.suffix == ".pyc"


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a function's folder with its manifest, without hidden files and caches.

    Raises:
        InvalidManifest: there is a symbolic link, a pipe, a socket or a device, or more than a
            bundle may hold; that is found out before all of it is read.
    """
    files: dict[str, bytes] = {}
    total = 0
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if is_left_out(relative):
            continue
        if path.is_symlink():
            raise InvalidManifest(f"{folder.name}/{relative}: a symbolic link; replace it by the file itself")
        if path.is_dir():
            continue
        if not path.is_file():
            raise InvalidManifest(
                f"{folder.name}/{relative}: neither a file nor a folder (a pipe, socket or device); remove it"
            )
        total += path.stat().st_size
        if len(files) > FILES_LIMIT or total > TOTAL_LIMIT_BYTES:
            raise InvalidManifest(
                f"{folder.name}/: more than {FILES_LIMIT} files or {TOTAL_LIMIT_BYTES} bytes; a function is code and small data"
            )
        files[relative.as_posix()] = path.read_bytes()
    return files
