"""A manifest as the text of a function.toml.

Knows: as much of TOML as a manifest needs. Does not know: what the settings mean.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sandlot.errors import InvalidManifest
from sandlot.functions.manifest import BadSetting, Manifest, parse_manifest


def toml_text(manifest: Manifest) -> str:
    """Text that reads back as this very manifest."""
    return "".join(f"{key} = {_value(value)}\n" for key, value in manifest.to_table().items() if value is not None)


def _value(value: Any) -> str:  # noqa: ANN401 - whatever a manifest holds
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_string(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return _string(value) if isinstance(value, str) else str(value)


def _string(text: str) -> str:
    """JSON's escapes are TOML's; TOML alone wants DEL escaped."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


# The reference expression of PEP 723, which the specification says tools must agree with.
_BLOCK: Final = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_BLOCK_START: Final = re.compile(r"(?m)^#\s*///\s*script\b")
_TOML_POSITION: Final = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")
_NODE_HEADER: Final = re.compile(r"^\s*//\s*sandlot\s*:\s*(.*)$")
_COMMENT: Final = re.compile(r"^\s*//\s?(.*)$")
_TEXT_LIMIT: Final = 64 * 1024


def python_manifest(filename: str, text: str, defaults: Mapping[str, Any]) -> Manifest:
    """The manifest of a Python file: its PEP 723 block if it has one, else the defaults.

    Raises:
        InvalidManifest: the block cannot be read or says what no manifest can say; file and line are named.
    """
    blocks = [match for match in _BLOCK.finditer(text) if match["type"] == "script"]
    if not blocks:
        start = _BLOCK_START.search(text)
        if start:
            raise _wrong(
                filename,
                text,
                start.start(),
                'this "# /// script" block is not closed by a line "# ///", or a line in it does not start with "# "',
            )
        return _manifest(filename, "", 1, {}, defaults)
    if len(blocks) > 1:
        raise _wrong(filename, text, blocks[1].start(), "a second script block; PEP 723 allows one")
    first_line = _line_at(text, blocks[0].start()) + 1
    content = "".join(
        line[2:] if line.startswith("# ") else line[1:] for line in blocks[0]["content"].splitlines(keepends=True)
    )
    table = _toml(filename, content, first_line)
    return _manifest(filename, content, first_line, _flattened(filename, content, first_line, table), defaults)


def node_manifest(filename: str, text: str, defaults: Mapping[str, Any]) -> Manifest:
    """The manifest of a Node file: the JSON object after `// sandlot:` in its leading comments if there is one, else the defaults.

    The object may go on over the `//` lines that follow.

    Raises:
        InvalidManifest: the header is not such an object or says what no manifest can say; file and line are named.
    """
    lines = _leading_lines(text)
    headers = [(index, match[1]) for index, line in enumerate(lines) if (match := _NODE_HEADER.match(line))]
    if not headers:
        return _manifest(filename, "", 1, {}, defaults)
    index, first = headers[0]
    if len(headers) > 1:
        raise InvalidManifest(f"{filename}:{headers[1][0] + 1}: a second sandlot header; write one")
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
    return _manifest(filename, content, index + 1, table, defaults)


def toml_manifest(filename: str, text: str, defaults: Mapping[str, Any]) -> Manifest:
    """The manifest in a `function.toml`.

    Raises:
        InvalidManifest: it is not TOML or says what no manifest can say; file and line are named.
    """
    return _manifest(filename, text, 1, _toml(filename, text, 1), defaults)


def given_manifest(where: str, table: Mapping[str, Any], defaults: Mapping[str, Any]) -> Manifest:
    """A manifest that came as JSON with a request; it has no lines.

    Raises:
        InvalidManifest: it says what no manifest can say; the key is named.
    """
    try:
        return parse_manifest(table, defaults)
    except BadSetting as error:
        raise InvalidManifest(f"{where}: {error}") from error


def _manifest(
    filename: str, content: str, first_line: int, table: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Manifest:
    try:
        return parse_manifest(table, defaults)
    except BadSetting as error:
        line = _line_of(error.key, content)
        if error.near:
            # The last of equals: it is the second of two that is one too many.
            after = [index for index, text in enumerate(content.splitlines()) if index >= line and error.near in text]
            line = after[-1] if after else line
        raise InvalidManifest(f"{filename}:{first_line + line}: {error}") from error


def _toml(filename: str, content: str, first_line: int) -> dict[str, Any]:
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


def _flattened(filename: str, content: str, first_line: int, table: dict[str, Any]) -> dict[str, Any]:
    """A PEP 723 table as manifest keys: `dependencies` is the specification's own, everything else is ours in `[tool.sandlot]`."""
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
                else "does not belong here: settings go below [tool.sandlot]"
            )
            raise InvalidManifest(f'{filename}:{first_line + _line_of(key, content)}: "{key}" {reason}')
    if "dependencies" in ours:
        raise InvalidManifest(
            f'{filename}:{first_line + _line_of("dependencies", content)}: "dependencies" goes above [tool.sandlot] (PEP 723)'
        )
    return {**ours, **({"dependencies": table["dependencies"]} if "dependencies" in table else {})}


def _leading_lines(text: str) -> list[str]:
    """The lines before the first line of code: comments, blank lines, a shebang."""
    leading: list[str] = []
    for line in text.splitlines():
        if line.strip() and not _COMMENT.match(line) and not (line.startswith("#!") and not leading):
            break
        leading.append(line)
    return leading


def _line_of(key: str, content: str) -> int:
    """Lines between the first line of this text and the one where the key is written; 0 when it is not."""
    written = re.compile(rf"""(^|[\s{{,\[.])["']?{re.escape(key)}["']?\s*[=:\].]""")
    return next((index for index, line in enumerate(content.splitlines()) if key and written.search(line)), 0)


def _line_at(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _wrong(filename: str, text: str, offset: int, message: str) -> InvalidManifest:
    return InvalidManifest(f"{filename}:{_line_at(text, offset)}: {message}")
