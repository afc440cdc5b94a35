"""Find prose that breaks the rules of CONTRIBUTING.md: `python -m tests.prose PATH...` lists it."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

WIDTH: Final = 100
MARKERS: Final = re.compile(
    r"\b(he|his|him|himself|she|whoever|whomever|whosever|somebody|someone|nobody|anew|of late|stand so)\b"
    r"|\b(is|are|be|been|was|were|being) told\b"
    r"|\bis no (?!longer\b|more than\b|less than\b|later\b|earlier\b|larger\b|worse\b|such\b)",
    re.IGNORECASE,
)
CLAUSE_SUBJECT: Final = re.compile(r"(?:^|(?<=[.!?:]\s)|(?<=\n\n))(What|Who|Whose|Whom|Whether)\b[^.?!]*", re.MULTILINE)
_CODE: Final = re.compile(r"`[^`\n]*`")
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)


class Fault(NamedTuple):
    """One place in a text and the rule that it breaks."""

    path: str
    line: int
    rule: str
    text: str


class _Text(NamedTuple):
    line: int
    text: str
    checks_width: bool
    sentences: bool


def texts_of(path: Path) -> Iterator[_Text]:
    """Yield the prose of a Python, Lua, JavaScript or Markdown file with the line it starts at."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _python(source)
    elif path.suffix == ".md":
        yield from _markdown(source)
    else:
        mark = "--" if path.suffix == ".lua" else "//"
        for number, line in enumerate(source.splitlines(), 1):
            _, found, comment = line.partition(mark)
            if found and (not line.partition(mark)[0].strip() or " " + mark in line):
                yield _Text(number, comment.strip(), not line.partition(mark)[0].strip(), False)


def _python(source: str) -> Iterator[_Text]:
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            docstrings |= {
                child.value.lineno
                for child in body
                if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            }
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(noqa|type:|fmt:|!)", token.string):
            yield _Text(token.start[0], token.string.lstrip("# "), not token.line[: token.start[1]].strip(), False)
        elif token.type == tokenize.STRING and " " in token.string:
            is_docstring = token.start[0] in docstrings
            text = token.string.strip("rRbBfF").strip("\"'")
            text = "\n".join(line.strip() for line in text.splitlines())
            yield _Text(token.start[0], text, is_docstring, is_docstring)


def _markdown(source: str) -> Iterator[_Text]:
    blanked = _FENCE.sub(lambda block: "\n" * block.group(0).count("\n"), source)
    number = 1
    for paragraph in re.split(r"(\n\s*\n)", blanked):
        is_table = paragraph.lstrip().startswith("|")
        is_heading = paragraph.lstrip().startswith("#")
        if paragraph.strip():
            yield _Text(number, paragraph.strip("\n"), not is_table, not is_heading)
        number += paragraph.count("\n")


def faults_in(path: Path) -> Iterator[Fault]:
    """Yield every place in a file where its prose breaks a rule."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, text, checks_width, sentences in texts_of(path):
        plain = _CODE.sub(lambda code: "x" * len(code.group(0)), text)
        for match in MARKERS.finditer(plain):
            yield Fault(str(path), number + plain.count("\n", 0, match.start()), "word", match.group(0))
        if sentences:
            for match in CLAUSE_SUBJECT.finditer(plain):
                if plain[match.end() : match.end() + 1] != "?":
                    place = number + plain.count("\n", 0, match.start())
                    yield Fault(str(path), place, "clause as subject", match.group(0)[:60])
        if checks_width:
            for offset in range(text.count("\n") + 1):
                line = lines[number - 1 + offset] if number - 1 + offset < len(lines) else ""
                if len(line) > WIDTH and " " in line[:WIDTH].strip() and "](" not in line and "noqa" not in line:
                    yield Fault(str(path), number + offset, f"wider than {WIDTH}", line.strip()[:60])


def faults_below(paths: list[Path]) -> list[Fault]:
    """List the faults of files and of everything below folders, in order."""
    suffixes = {".py", ".lua", ".md", ".cjs", ".mjs", ".js"}
    files = [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.suffix in suffixes and file.is_file() and "node_modules" not in file.parts
    ]
    return [fault for file in files for fault in faults_in(file)]


if __name__ == "__main__":
    found = faults_below([Path(name) for name in sys.argv[1:]])
    for fault in found:
        print(f"{fault.path}:{fault.line}: {fault.rule}: {fault.text}")
    sys.exit(bool(found))
