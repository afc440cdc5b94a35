"""Locks that a hostile resolver could hand out, and the ones that uv and npm write."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandlot.functions.dependencies import LOCK_LIMIT_BYTES, Lock
from sandlot.models import Runtime
from worker.builder.indexes import tree_name
from worker.builder.lock_check import check_lock
from worker.builder.package_files import BuildFailed

HASH = "--hash=sha256:" + "0" * 64
PACKAGE = {"version": "1.0.0", "resolved": "https://registry.example/a.tgz", "integrity": "sha512-AAAA=="}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# a comment\n",
        f"numpy==2.0 \\\n    {HASH} \\\n    {HASH}\n",
        f"colorama==0.4.6 ; sys_platform == 'win32' \\\n    {HASH}\n",
        f"a[extra]==1.0+cpu {HASH}\nb==1!2.0rc1 {HASH}",
    ],
)
def test_what_uv_writes_is_accepted(text: str) -> None:
    assert check_lock(Runtime.PYTHON, text) == text


@pytest.mark.parametrize(
    "text",
    [
        "numpy==2.0",
        f"numpy>=2.0 {HASH}",
        f"numpy==2.* {HASH}",
        f"numpy==2.0,==2.0.0 {HASH}",
        f"numpy {HASH}",
        f"--index-url https://evil.example {HASH}",
        f"-r /etc/passwd {HASH}",
        f"numpy==2.0 --config-settings=a=b {HASH}",
        f"-e /tmp/evil {HASH}",
        f"./evil {HASH}",
        f"evil @ https://evil.example/evil.whl {HASH}",
        f"evil @ git+https://evil.example/evil {HASH}",
        "numpy==2.0 --hash=md5:00",
        f"numpy==2.0 {HASH}\rother==1",
        f"numpy==2.0 {HASH}\x0c--index-url=https://evil.example",
        f"numpy==2.0 {HASH}\u2028-e .",
        f"numpy==2.0 {HASH}\0",
        "#" * (LOCK_LIMIT_BYTES + 1),
        None,
        7,
    ],
)
def test_a_line_that_is_more_than_a_version_and_hashes_is_refused(text: object) -> None:
    with pytest.raises(BuildFailed):
        check_lock(Runtime.PYTHON, text)


def package_lock(packages: dict[str, Any]) -> str:
    return json.dumps({"lockfileVersion": 3, "packages": {"": {"dependencies": {"a": "*"}}} | packages})


@pytest.mark.parametrize(
    "packages",
    [
        {},
        {"node_modules/a": PACKAGE, "node_modules/@scope/b": PACKAGE | {"hasInstallScript": True}},
        {"node_modules/a": PACKAGE, "node_modules/a/node_modules/b": {"version": "1.0.0", "inBundle": True}},
        {"node_modules/a": PACKAGE | {"integrity": "sha1-AAAA= sha512-BBBB=="}},
    ],
)
def test_what_npm_writes_is_accepted(packages: dict[str, Any]) -> None:
    assert check_lock(Runtime.NODE, package_lock(packages))


@pytest.mark.parametrize(
    "packages",
    [
        {"node_modules/a": {"resolved": "../../etc", "link": True}},
        {"../a": PACKAGE},
        {"node_modules/../../a": PACKAGE},
        {"node_modules/a": PACKAGE | {"resolved": "git+ssh://git@evil.example/a.git#0"}},
        {"node_modules/a": PACKAGE | {"resolved": "file:///packages/a.tgz"}},
        {"node_modules/a": PACKAGE | {"integrity": ""}},
        {"node_modules/a": {"version": "1.0.0", "resolved": "https://registry.example/a.tgz"}},
        {"node_modules/a": "1.0.0"},
        {"": []},
    ],
)
def test_a_package_without_a_hash_or_from_elsewhere_is_refused(packages: dict[str, Any]) -> None:
    with pytest.raises(BuildFailed):
        check_lock(Runtime.NODE, package_lock(packages))


def test_text_that_is_no_lock_of_npm_is_refused() -> None:
    for text in ("", "[]", "{}", '{"packages": {}}', '{"packages": []}'):
        with pytest.raises(BuildFailed):
            check_lock(Runtime.NODE, text)


@pytest.mark.parametrize("runtime", list(Runtime))
def test_a_tree_that_foreign_code_took_part_in_is_named_after_its_function(runtime: Runtime) -> None:
    wheels, source = (Lock(runtime=runtime, text="", source_builds=allowed) for allowed in (False, True))
    assert tree_name(wheels, "one") == tree_name(wheels, "two")
    assert len({tree_name(wheels, "one"), tree_name(source, "one"), tree_name(source, "two")}) == 3
