"""A first version of a function and of its test, for `sandlot new` and for an empty folder.

Knows: what a newcomer should see in a first file. Does not know: how functions are deployed.
"""

from __future__ import annotations

import contextlib
import keyword
import os
from pathlib import Path
from typing import Final

from sandlot.errors import InvalidManifest
from sandlot.models import FUNCTION_NAME, Runtime

_PYTHON: Final = '''"""{title}: say what it does here.

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
    print(f"greeting {{name}}")  # what is printed is the job's log
    return {{"message": f"Hello, {{name}}!"}}
'''

_NODE: Final = """// sandlot: {{"timeout": "5s", "memory": "256MiB", "visibility": "{visibility}"}}
//
// {title}: say what it does here.
//
// sandlot invoke {name} '{{"name": "Ada"}}'

export const handler = async (event, context) => {{
  const name = event?.name ?? 'world';
  console.log(`greeting ${{name}}`); // what is printed is the job's log
  return {{ message: `Hello, ${{name}}!` }};
}};
"""


_TEST: Final = '''"""{title}, as its callers see it: python -m pytest

The fixture `sandlot` is a platform of the tests' own; the function runs in the sandbox that it will have.
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
    """Write a test of the function in this file into `tests/` beside its folder, unless there is one; where it is.

    Raises:
        InvalidManifest: the folder cannot be written.
    """
    word = name.replace("-", "_")
    folder = function.absolute().parent
    path = Path(os.path.relpath(folder.parent / "tests" / f"test_{word}.py"))
    title = name.replace("-", " ").capitalize()
    text = _TEST.format(
        title=title, folder=folder.name, file=function.name, word=f"{word}_" if keyword.iskeyword(word) else word
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InvalidManifest(f"{path} cannot be written: {error.strerror}") from error
    return path


def write_function(folder: Path, name: str, runtime: Runtime, *, public: bool = False) -> Path:
    """Write a first version of this function into the folder and say where.

    Raises:
        InvalidManifest: the name is none, there is one already, or the folder cannot be written.
    """
    if not FUNCTION_NAME.match(name):
        raise InvalidManifest(
            f"{name!r} is no name for a function: write a letter, then up to 62 letters, digits and hyphens"
        )
    text, suffix = (_PYTHON, ".py") if runtime is Runtime.PYTHON else (_NODE, ".mjs")
    path = folder / (name.replace("-", "_") + suffix)
    title = name.replace("-", " ").capitalize()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text.format(name=name, title=title, visibility="public" if public else "private"))
    except FileExistsError as error:
        raise InvalidManifest(f"{path} is there already; choose another name") from error
    except OSError as error:
        raise InvalidManifest(f"{path} cannot be written: {error.strerror}") from error
    return path
