"""Source files and folders as functions: names, manifests in their headers, and errors that name file and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandlot.errors import InvalidManifest
from sandlot.functions import function_name, function_paths, read_files, read_path, read_source
from sandlot.functions.source import folder_files
from sandlot.models import Runtime

NO_NODE = Path("/nowhere/node-is-not-started-in-unit-tests")
HANDLER = "def handler(event, context):\n    return 1\n"


def python(source: str) -> None:
    read_source("f", "f.py", source)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("hello.py", "hello"),
        ("word_count.py", "word-count"),
        ("Page.mjs", "page"),
        ("a/b/markdown", "markdown"),
        ("x.cjs", "x"),
    ],
)
def test_a_file_or_folder_names_its_function(path: str, name: str) -> None:
    assert function_name(Path(path)) == name


@pytest.mark.parametrize("path", ["9lives.py", "_x.py", "ä.py", ".py", "a b.py", "a" * 64 + ".py"])
def test_a_file_without_a_valid_function_name_is_refused(path: str) -> None:
    with pytest.raises(InvalidManifest, match="is not a valid function name"):
        function_name(Path(path))


def test_the_header_of_a_python_file_is_its_manifest() -> None:
    source = '"""Docs."""\n# /// script\n# dependencies = []\n# [tool.sandlot]\n# timeout = "2s"\n# visibility = "public"\n# [tool.ruff]\n# line-length = 9\n# ///\n'
    bundle, manifest = read_source("word-count", None, source + HANDLER)
    assert list(bundle.files) == ["word_count.py"]
    assert (manifest.runtime, manifest.handler, manifest.timeout_s, manifest.visibility) == (
        Runtime.PYTHON,
        "word_count.handler",
        2.0,
        "public",
    )


def test_keys_given_with_a_request_win_over_those_in_the_text() -> None:
    source = '# /// script\n# [tool.sandlot]\n# timeout = "2s"\n# memory = "64MiB"\n# ///\n' + HANDLER
    _, manifest = read_source("f", "f.py", source, {"timeout": "3s"})
    assert (manifest.timeout_s, manifest.memory_mib) == (3.0, 64)


@pytest.mark.parametrize(
    ("source", "where", "reason"),
    [
        ("x =\n", "f.py:1", "does not parse"),
        ("\n\nif True:\npass\n", "f.py:4", "does not parse: expected an indented block"),
        ("a = 1\0\n", "f.py:1", "null byte"),
        ("-" * 100_000 + "1", "f.py:1", "nested too deeply"),
        ("(" * 300 + ")" * 300, "f.py:1", "does not parse"),
        ("x = " + "9" * 5000, "f.py:1", "does not parse"),
        ("def main(event, context): pass\n", "f.py:1", "handler is not defined"),
        ("\ndef handler(event, context):\n    yield 1\n", "f.py:2", "generator"),
        ("async def handler(event, context):\n    yield 1\n", "f.py:1", "generator"),
        ('# /// script\n# [tool.sandlot]\n# timeot = "5s"\n# ///\n', "f.py:3", 'did you mean "timeout"'),
        ("\n# /// script\n# [tool.sandlot]\n# timeout = 5\n# ///\n", "f.py:4", "needs a unit"),
        ('# /// script\n# [tool.sandlot]\n# timeout = "5s\n# ///\n', "f.py:3", "not TOML"),
        ("# /// script\n# dependencies = ['numpy==']\n# ///\n", "f.py:2", "not a requirement"),
        (
            "# /// script\n# dependencies = [\n#   'a',\n#   'b @ file:///x',\n# ]\n# ///\n",
            "f.py:4",
            "names an address",
        ),
        ("# /// script\n# dependencies = [\n#   'a',\n#   'b',\n#   'a',\n# ]\n# ///\n", "f.py:5", "the same package"),
        ("# /// script\n# requires-python = '>=3.11'\n# ///\n", "f.py:2", "no effect"),
        ("# /// script\n# timeout = '5s'\n# ///\n", "f.py:2", "below [tool.sandlot]"),
        ("# /// script\n# [tool]\n# sandlot = 1\n# ///\n", "f.py:3", "not a table"),
        ("# /// script\n# [tool.sandlot]\n# dependencies = []\n# ///\n", "f.py:3", "above [tool.sandlot]"),
        ("# /// script\n# [tool.sandlot]\n", "f.py:1", "not closed"),
        ("# /// script\n# a = 1\n# ///\n\n# /// script\n# x = 1\n# ///\n", "f.py:5", "second script block"),
        ("# /// script\n# x = " + "[" * 9000 + "\n# ///\n", "f.py:2", "nested too deeply"),
        ('# /// script\n# [tool.sandlot]\n# runtime = "node"\n# ///\n' + HANDLER, "f.py", "does not match"),
        (
            '# /// script\n# [tool.sandlot]\n# handler = "g.handler"\n# ///\n' + HANDLER,
            "the function",
            "names a file that does not exist",
        ),
    ],
)
def test_a_mistake_in_a_python_file_is_reported_with_its_line(source: str, where: str, reason: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        python(source)
    assert refused.value.message.startswith(where + ":"), refused.value.message
    assert reason in refused.value.message


@pytest.mark.parametrize(
    "source",
    [
        "handler = lambda event, context: 1",
        "from json import loads as handler",
        "from json import *",
        "if True:\n    def handler(e, c): return 1\nelse:\n    handler = None",
        "try:\n    import fast\nexcept ImportError:\n    def handler(e, c): return 1",
        "class handler: pass",
        "handler: object = print",
        "def __getattr__(name): return print",
        "def handler(e, c):\n    def inner():\n        yield 1\n    return list(inner())",
        "def handler(e, c):\n    return list(lambda: (yield))",
        "\ufeffdef handler(e, c): return 1",
        "def handler(e, c):\r\n    return 1\r\n",
        "def handler(e, c): return '\\d'",
    ],
)
@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_a_handler_may_be_bound_in_any_way(source: str) -> None:
    python(source)


@pytest.mark.parametrize(
    ("source", "where", "reason"),
    [
        ('// sandlot: {"timeout": 5}\n', "f.js:1", "needs a unit"),
        ("// sandlot: {timeout: 5}\n", "f.js:1", "not JSON"),
        ("// sandlot: 5\n", "f.js:1", "not a JSON object"),
        ('#!/usr/bin/env node\n\n// sandlot: {\n//   "memory": "256MB"\n// }\n', "f.js:4", "write MiB"),
        ("// sandlot: {}\n// sandlot: {}\n", "f.js:2", "second sandlot header"),
        ("// sandlot: " + "[" * 20_000 + "\n", "f.js:1", "nested too deeply"),
        ('// sandlot: {"isolation": "fork"}\n', "f.js:1", "no effect on Node"),
    ],
)
def test_a_mistake_in_a_node_header_is_reported_with_its_line(source: str, where: str, reason: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        read_source("f", "f.js", source, node=NO_NODE)
    assert refused.value.message.startswith(where + ":"), refused.value.message
    assert reason in refused.value.message


@pytest.mark.parametrize("filename", ["f.rb", "../f.py", "f", "a/f.py", ""])
def test_a_filename_that_is_not_a_source_file_is_refused(filename: str) -> None:
    with pytest.raises(InvalidManifest, match="not the name of a source file"):
        read_source("f", filename, HANDLER)


def test_text_that_utf8_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidManifest, match=r"f\.py:2: not UTF-8"):
        read_source("f", "f.py", "\nx = '\ud800'\n")


def test_a_folder_is_a_function_with_its_function_toml(tmp_path: Path) -> None:
    folder = tmp_path / "my_job"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__" / "main.pyc").write_bytes(b"x")
    (folder / ".hidden").write_text("x")
    (folder / "parts").mkdir()
    (folder / "parts" / "one.py").write_text("ONE = 1\n")
    (folder / "main.py").write_text(HANDLER)
    (folder / "function.toml").write_text('timeout = "9s"\n')
    name, bundle, manifest = read_path(folder)
    assert (name, sorted(bundle.files)) == ("my-job", ["main.py", "parts/one.py"])
    assert (manifest.handler, manifest.timeout_s) == ("main.handler", 9.0)


@pytest.mark.parametrize(
    ("files", "where", "reason"),
    [
        ({"function.toml": "timeout = '9s'"}, "manifest_less", ""),
        ({"function.toml": "\ntimeout = 9\n", "main.py": HANDLER}, "job/function.toml:2", "needs a unit"),
        ({"function.toml": "", "app.py": HANDLER}, "job/function.toml:1", "runtime is missing: write runtime"),
        (
            {"function.toml": "runtime = 'python'", "app.py": HANDLER},
            "job/function.toml:1",
            "or index.cjs it is not implied; the files are: app.py",
        ),
        (
            {"function.toml": "", "main.py": HANDLER, "index.js": ""},
            "job/function.toml:1",
            "Both main.py and index.js exist, so the main file is ambiguous",
        ),
        (
            {"function.toml": "", "src/main.py": HANDLER},
            "job/function.toml:1",
            "src/main.py is one folder too deep: send the contents of src/",
        ),
        ({"function.toml": "\n[oops\n", "main.py": HANDLER}, "job/function.toml:2", "not TOML"),
        ({"function.toml": "", "main.py": "x ="}, "job/main.py:1", "does not parse"),
        ({"function.toml": "", "main.py": HANDLER, "other.py": "\nx ="}, "job/other.py:2", "does not parse"),
        ({"function.toml": "handler = 'gone.handler'", "main.py": HANDLER}, "job/", "names a file that does not exist"),
        (
            {"function.toml": "", "main.py": HANDLER, "requirements.txt": "# one\nnumpy >=\n"},
            "job/requirements.txt:2",
            "not a requirement",
        ),
        (
            {"function.toml": "", "main.py": HANDLER, "requirements.txt": "a\n-r other.txt\n"},
            "job/requirements.txt:2",
            "an option of pip: write the requirements themselves",
        ),
        (
            {"function.toml": "", "main.py": HANDLER, "requirements.txt": "a==1 \\\n  --hash=sha256:00\n"},
            "job/requirements.txt:1",
            "Sandlot computes hashes itself",
        ),
        (
            {"function.toml": "dependencies = ['b']", "main.py": HANDLER, "requirements.txt": "a\n"},
            "job/requirements.txt",
            "list them in one place only",
        ),
        (
            {"function.toml": "", "index.mjs": "", "requirements.txt": "numpy\n"},
            "job/requirements.txt",
            "lists dependencies for python",
        ),
        (
            {"function.toml": "", "index.mjs": "", "package.json": '{\n"dependencies": {\n"x": "file:../x"}}'},
            "job/package.json:3",
            "is not a version range",
        ),
        (
            {"function.toml": "", "index.mjs": "", "package.json": '{\n"overrides": {"x": "1"}}'},
            "job/package.json:2",
            "has no effect",
        ),
    ],
)
def test_a_mistake_in_a_folder_is_reported_with_file_and_line(
    tmp_path: Path, files: dict[str, str], where: str, reason: str
) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with pytest.raises(InvalidManifest) as refused:
        read_path(folder, node=NO_NODE)
    if reason:
        assert refused.value.message.startswith(where), refused.value.message
    assert reason in refused.value.message


@pytest.mark.parametrize(
    ("files", "dependencies"),
    [
        ({"main.py": HANDLER, "requirements.txt": "# why\nnumpy>=2  # fast\n\nhttpx[http2] \\\n  <1\n"}, ("numpy>=2", "httpx[http2]   <1")),
        ({"index.mjs": "", "package.json": '{"dependencies": {"dayjs": "", "@a/b": "^4"}, "devDependencies": {"c": "1"}}'}, ("dayjs", "@a/b@^4")),
        ({"index.mjs": "", "package.json": '{"dependencies": {"dayjs": "1"}}', "package-lock.json": "{}"}, ("dayjs@1",)),
        ({"index.mjs": "", "package.json": '{"dependencies": {"dayjs": "1"}}', "node_modules/dayjs/index.js": ""}, ()),
    ],
    ids=["requirements", "package", "lock", "modules"],
)  # fmt: skip
def test_a_folder_names_its_dependencies_in_its_languages_own_file(
    files: dict[str, str], dependencies: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandlot.functions.source.find_node", lambda: None)  # no process in a unit test
    _, manifest = read_files({name: text.encode() for name, text in files.items()})
    assert manifest.dependencies == dependencies


def test_a_symbolic_link_in_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "function.toml").write_text("")
    (folder / "main.py").write_text(HANDLER)
    (folder / "secrets").symlink_to("/etc/passwd")
    with pytest.raises(InvalidManifest, match="job/secrets: a symbolic link"):
        read_path(folder)


def test_a_pipe_in_a_folder_is_refused_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(HANDLER)
    os.mkfifo(tmp_path / "queue")
    with pytest.raises(InvalidManifest, match="queue: neither a file nor a folder"):
        folder_files(tmp_path)


def test_a_file_that_is_not_source_code_is_refused_with_a_description_of_functions(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        InvalidManifest,
        match=r"notes.txt: not a function, which is a source file \(\.py, \.js, \.mjs, \.cjs\), a folder or a zip",
    ):
        read_path(tmp_path / "notes.txt")


def test_a_file_that_vanished_is_reported_as_unreadable(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="cannot be read: No such file"):
        read_path(tmp_path / "gone.py")


def test_one_lone_source_file_needs_no_manifest() -> None:
    bundle, manifest = read_files({"job.py": HANDLER.encode()})
    assert (list(bundle.files), manifest.handler) == (["job.py"], "job.handler")


def test_functions_in_a_folder_are_its_sources_and_the_folders_with_a_manifest(tmp_path: Path) -> None:
    for name in ("b.py", "a.mjs", "_shared.py", ".hidden.py", "notes.txt", "c.cjs"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "function.toml").write_text("")
    (tmp_path / "library").mkdir()
    assert [path.name for path in function_paths(tmp_path)] == ["a.mjs", "b.py", "c.cjs", "folder"]
