"""Templates of a function and its test, for `sandlot new` and an empty `sandlot up`."""

from __future__ import annotations

import contextlib
import keyword
import os
from pathlib import Path
from typing import Final

from sandlot.errors import InvalidManifest
from sandlot.models import FUNCTION_NAME, Runtime

_PYTHON: Final = '''"""{title}: describe it here.

sandlot invoke {name} '{{"name": "Ada"}}'
"""
# /// script
# [tool.sandlot]
# timeout = "5s"
# memory = "256MiB"
# visibility = "{visibility}"
# ///


def handler(event, context):
    name = (event or {{}}).get("name", "world")
    print(f"greeting {{name}}")  # printed text goes to the job's log
    return {{"message": f"Hello, {{name}}!"}}
'''

_NODE: Final = """// sandlot: {{"timeout": "5s", "memory": "256MiB", "visibility": "{visibility}"}}
//
// {title}: describe it here.
//
// sandlot invoke {name} '{{"name": "Ada"}}'

export const handler = async (event, context) => {{
  const name = event?.name ?? 'world';
  console.log(`greeting ${{name}}`); // printed text goes to the job's log
  return {{ message: `Hello, ${{name}}!` }};
}};
"""


_TEST: Final = '''"""Tests of {name}. Run them with: python -m pytest

The fixture `sandlot` is a platform for the tests alone; the function runs in the same sandbox as in production.
"""

from pathlib import Path

FUNCTION = Path(__file__).parents[1] / "{folder}" / "{file}"


def test_greets_by_name(sandlot):
    {word} = sandlot.deploy(FUNCTION)
    assert {word}({{"name": "Ada"}}) == {{"message": "Hello, Ada!"}}


def test_greets_the_world_without_a_name(sandlot):
    {word} = sandlot.deploy(FUNCTION)
    job = {word}.submit()
    assert job.wait()["result"] == {{"message": "Hello, world!"}}
    assert job.logs() == "greeting world\\n"
'''


def write_test(function: Path, name: str) -> Path:
    """Write a test of a function, unless it exists, and return its path.

    It goes into `tests/`, next to the function's folder.

    Raises:
        InvalidManifest: the file cannot be written.
    """
    word = name.replace("-", "_")
    folder = function.absolute().parent
    path = Path(os.path.relpath(folder.parent / "tests" / f"test_{word}.py"))
    text = _TEST.format(
        name=name, folder=folder.name, file=function.name, word=f"{word}_" if keyword.iskeyword(word) else word
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InvalidManifest(f"cannot write {path}: {error.strerror}") from error
    return path


def write_function(folder: Path, name: str, runtime: Runtime, *, public: bool = False) -> Path:
    """Write a first version of a function into a folder and return its path.

    Raises:
        InvalidManifest: the name is not valid, the file exists already, or it cannot be written.
    """
    if not FUNCTION_NAME.match(name):
        raise InvalidManifest(
            f"{name!r} is not a valid function name: use a lowercase letter followed by up to 62 lowercase letters, "
            "digits and hyphens"
        )
    text, suffix = (_PYTHON, ".py") if runtime is Runtime.PYTHON else (_NODE, ".mjs")
    path = folder / (name.replace("-", "_") + suffix)
    title = name.replace("-", " ").capitalize()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text.format(name=name, title=title, visibility="public" if public else "private"))
    except FileExistsError as error:
        raise InvalidManifest(f"{path} exists already; choose another name") from error
    except OSError as error:
        raise InvalidManifest(f"cannot write {path}: {error.strerror}") from error
    return path
