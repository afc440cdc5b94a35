"""A manifest as the text of a function.toml.

Knows: as much of TOML as a manifest needs. Does not know: what the settings mean.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sandlot.functions.manifest import Manifest


def toml_text(manifest: Manifest) -> str:
    """Text that reads back as this very manifest."""
    return "".join(f"{key} = {_value(value)}\n" for key, value in manifest.written().items() if value is not None)


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
