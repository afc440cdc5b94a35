"""Manifests as text: in Python files (PEP 723), in Node files, and in function.toml."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sandlot.errors import InvalidManifest
from sandlot.functions.manifest import BadSetting, Manifest, parse_manifest

# The reference expression of PEP 723, with whose result tools must agree.
_BLOCK: Final = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_BLOCK_START: Final = re.compile(r"(?m)^#\s*///\s*script\b")
_TOML_POSITION: Final = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")
_NODE_HEADER: Final = re.compile(r"^\s*//\s*sandlot\s*:\s*(.*)$")
_COMMENT: Final = re.compile(r"^\s*//\s?(.*)$")
_TEXT_LIMIT: Final = 64 * 1024


def python_manifest(filename: str, text: str, defaults: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a Python file: its PEP 723 block if it has one, else the defaults.

    Raises:
        InvalidManifest: the block is malformed or has an invalid setting; the message names file
            and line.
    """
    blocks = [match for match in _BLOCK.finditer(text) if match["type"] == "script"]
    if not blocks:
        start = _BLOCK_START.search(text)
        if start:
            raise _invalid(
                filename,
                text,
                start.start(),
                'this "# /// script" block is not closed by a line "# ///", or a line in it does not start with "# "',
            )
        return _located_manifest(filename, "", 1, {}, defaults)
    if len(blocks) > 1:
        raise _invalid(filename, text, blocks[1].start(), "a second script block; PEP 723 allows only one")
    first_line = _line_at(text, blocks[0].start()) + 1
    content = "".join(
        line[2:] if line.startswith("# ") else line[1:] for line in blocks[0]["content"].splitlines(keepends=True)
    )
    table = _parse_toml(filename, content, first_line)
    return _located_manifest(filename, content, first_line, _flatten(filename, content, first_line, table), defaults)


def node_manifest(filename: str, text: str, defaults: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a Node file: its `// sandlot:` header, else the defaults.

    The header is a JSON object in the leading comments, which may continue over the `//` lines that
    follow.

    Raises:
        InvalidManifest: the header is malformed or has an invalid setting; the message names file
            and line.
    """
    lines = _leading_lines(text)
    headers = [(index, match[1]) for index, line in enumerate(lines) if (match := _NODE_HEADER.match(line))]
    if not headers:
        return _located_manifest(filename, "", 1, {}, defaults)
    index, first = headers[0]
    if len(headers) > 1:
        raise InvalidManifest(f"{filename}:{headers[1][0] + 1}: a second sandlot header; only one is allowed")
    rest = [match[1] for line in lines[index + 1 :] if (match := _COMMENT.match(line))]
    content = "\n".join([first, *rest])[:_TEXT_LIMIT]
    try:
        table, _ = json.JSONDecoder().raw_decode(content)
    except (json.JSONDecodeError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise InvalidManifest(
            f'{filename}:{index + line}: the sandlot header is not JSON: {reason}; write // sandlot: {{"timeout": "5s"}}'
        ) from error
    if not isinstance(table, dict):
        raise InvalidManifest(
            f'{filename}:{index + 1}: the sandlot header is not a JSON object; write // sandlot: {{"timeout": "5s"}}'
        )
    return _located_manifest(filename, content, index + 1, table, defaults)


def toml_manifest(filename: str, text: str, defaults: Mapping[str, Any]) -> Manifest:
    """Return the manifest in a `function.toml`.

    Raises:
        InvalidManifest: the text is not TOML or has an invalid setting; the message names file and
            line.
    """
    return _located_manifest(filename, text, 1, _parse_toml(filename, text, 1), defaults)


def given_manifest(where: str, table: Mapping[str, Any], defaults: Mapping[str, Any]) -> Manifest:
    """Return a manifest that came as JSON with a request and therefore has no lines.

    Raises:
        InvalidManifest: it has an invalid setting; the message names the key.
    """
    try:
        return parse_manifest(table, defaults)
    except BadSetting as error:
        raise InvalidManifest(f"{where}: {error}") from error


def _located_manifest(
    filename: str, content: str, first_line: int, table: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Manifest:
    try:
        return parse_manifest(table, defaults)
    except BadSetting as error:
        line = _line_of(error.key, content)
        if error.near:
            # Of two equal entries, the second one is reported.
            after = [index for index, text in enumerate(content.splitlines()) if index >= line and error.near in text]
            line = after[-1] if after else line
        raise InvalidManifest(f"{filename}:{first_line + line}: {error}") from error


def _parse_toml(filename: str, content: str, first_line: int) -> dict[str, Any]:
    if len(content) > _TEXT_LIMIT:
        raise InvalidManifest(
            f"{filename}:{first_line}: the manifest has {len(content)} characters; at most {_TEXT_LIMIT} are allowed"
        )
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        position = _TOML_POSITION.search(str(error))
        line = int(position[1]) if position and position[1] else content.count("\n") or 1
        reason = _TOML_POSITION.sub("", str(error))
        raise InvalidManifest(f"{filename}:{first_line + line - 1}: the manifest is not TOML: {reason}") from error
    except RecursionError as error:
        raise InvalidManifest(f"{filename}:{first_line}: the manifest is nested too deeply") from error


def _flatten(filename: str, content: str, first_line: int, table: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a PEP 723 table as those of a manifest.

    `dependencies` is defined by PEP 723; all other keys are Sandlot's, in `[tool.sandlot]`.
    """
    tools = table.get("tool", {})
    ours = tools.get("sandlot", {}) if isinstance(tools, dict) else {}
    if not isinstance(ours, dict):
        raise InvalidManifest(
            f"{filename}:{first_line + _line_of('sandlot', content)}: tool.sandlot is not a table; write [tool.sandlot]"
        )
    for key in table:
        if key not in ("dependencies", "tool"):
            reason = (
                "has no effect: functions run on the worker's Python"
                if key == "requires-python"
                else "does not belong here: write settings below [tool.sandlot]"
            )
            raise InvalidManifest(f'{filename}:{first_line + _line_of(key, content)}: "{key}" {reason}')
    if "dependencies" in ours:
        raise InvalidManifest(
            f'{filename}:{first_line + _line_of("dependencies", content)}: write "dependencies" above [tool.sandlot] (PEP 723)'
        )
    return {**ours, **({"dependencies": table["dependencies"]} if "dependencies" in table else {})}


def _leading_lines(text: str) -> list[str]:
    """Return the lines before the first line of code: comments, blank lines, a shebang."""
    leading: list[str] = []
    for line in text.splitlines():
        if line.strip() and not _COMMENT.match(line) and not (line.startswith("#!") and not leading):
            break
        leading.append(line)
    return leading


def _line_of(key: str, content: str) -> int:
    """Return the index of the line in which the key is written; 0 if it is not written."""
    written = re.compile(rf"""(^|[\s{{,\[.])["']?{re.escape(key)}["']?\s*[=:\].]""")
    return next((index for index, line in enumerate(content.splitlines()) if key and written.search(line)), 0)


def _line_at(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _invalid(filename: str, text: str, offset: int, message: str) -> InvalidManifest:
    return InvalidManifest(f"{filename}:{_line_at(text, offset)}: {message}")


def toml_text(manifest: Manifest) -> str:
    """Return a function.toml that reads back as this very manifest."""
    return "".join(f"{key} = {_toml_value(value)}\n" for key, value in manifest.to_table().items() if value is not None)


def _toml_value(value: Any) -> str:  # noqa: ANN401 - any value of a manifest
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml_string(key)} = {_toml_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return _toml_string(value) if isinstance(value, str) else str(value)


def _toml_string(text: str) -> str:
    """Return a TOML string.

    JSON's escapes are also TOML's, which additionally requires DEL to be escaped.
    """
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
