"""JavaScript is parsed by Node at deploy: every valid form, and the place of each error."""

from __future__ import annotations

import pytest

from sandlot.errors import InvalidManifest
from sandlot.functions import find_node, read_source

pytestmark = pytest.mark.skipif(find_node() is None, reason="Node is not installed")


@pytest.mark.parametrize(
    ("filename", "source"),
    [
        ("f.js", "(event, context) => ({ message: 'it works!', status: 'ok ' })"),
        ("f.js", "// a comment\nasync (event) => event;\n"),
        ("f.js", "const f = (event, context) => {\n  return {};\n}"),
        ("f.js", "function (event) { return 1 }"),
        ("f.js", "function handler(event) { return 1 }"),
        ("f.js", "module.exports = { handler: () => 1 };\nreturn;"),
        ("f.js", "export const handler = async () => 1;"),
        ("f.js", "import fs from 'node:fs';\nexport default () => fs.constants;"),
        ("f.js", "#!/usr/bin/env node\nexports.handler = () => 1"),
        ("f.mjs", "export const handler = await Promise.resolve(() => 1);"),
        ("f.cjs", "exports.handler = () => 1;"),
        ("f.js", "while (true) {} // parsed, never run"),
        ("f.js", "process.exit(1)"),
    ],
)
def test_valid_syntax_is_accepted_and_not_run(filename: str, source: str) -> None:
    bundle, _ = read_source("f", filename, source)
    assert list(bundle.files) == [filename]


@pytest.mark.parametrize(
    ("filename", "source", "line"),
    [
        ("f.js", "const f = (event) => {", 1),
        ("f.js", "\n\nconst x = ;\n", 3),
        ("f.js", "// sandlot: {}\nexport const handler = () => {\n  retrun 1 1;\n};\n", 3),
        ("f.mjs", "export const handler = async ( => 1;", 1),
        ("f.cjs", "export const handler = () => 1;", 1),
        ("f.mjs", "\nconst a = 1;\nconst a = 2;\n", 3),
        ("f.js", "(" * 100_000, 1),
    ],
)
def test_a_syntax_error_is_reported_with_its_line(filename: str, source: str, line: int) -> None:
    with pytest.raises(InvalidManifest) as refused:
        read_source("f", filename, source)
    assert refused.value.message.startswith(f"{filename}:{line}: does not parse"), refused.value.message
