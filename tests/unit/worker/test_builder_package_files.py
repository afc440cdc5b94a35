"""What comes out of a build's sandbox is bytes, which become plain files or nothing."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from worker.builder.package_files import FILES_LIMIT, BuildFailed, PackageFile, TreeWriter, check_files


def chunk(content: bytes) -> bytes:
    return json.dumps(base64.b64encode(content).decode()).encode()


def write(folder: Path, files: list[PackageFile], chunks: list[bytes]) -> None:
    with TreeWriter(folder, files) as writer:
        for each in chunks:
            writer.feed(each)
        writer.finish()


def announced(*files: tuple[str, int]) -> list[PackageFile]:
    return [PackageFile(path, size, False) for path, size in files]


def test_a_stream_becomes_the_files_that_were_announced_empty_ones_too(tmp_path: Path) -> None:
    files = [
        PackageFile("empty", 0, False),
        PackageFile("a/run", 3, True),
        PackageFile("b", 2, False),
        PackageFile("c/end", 0, False),
    ]
    with TreeWriter(tmp_path, files) as writer:
        assert writer.feed(chunk(b"abc" + b"d")) == 4
        assert writer.feed(chunk(b"e")) == 1
        writer.finish()
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"empty": b"", "a/run": b"abc", "b": b"de", "c/end": b""}
    assert (tmp_path / "a/run").stat().st_mode & 0o777 == 0o555
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize(
    ("files", "chunks", "reason"),
    [
        (announced(("a", 1)), [chunk(b"ab")], "more than it announced"),
        (announced(("a", 2)), [chunk(b"a")], "less than it announced"),
        (announced(("a", 1)), [chunk(b"")], "less than it announced"),
        (announced(("a", 1)), [b'"!"'], "malformed file content"),
        (announced(("a", 1)), [b"[1]"], "malformed file content"),
        (announced(("a", 1), ("a", 1)), [chunk(b"ab")], "twice"),
        (announced(("a", 1), ("a/b", 1)), [chunk(b"ab")], "a file and a folder"),
        (announced(("a/b", 1), ("a", 1)), [chunk(b"ab")], "a file and a folder"),
    ],
)
def test_a_package_file_that_differs_from_its_announcement_is_refused(
    tmp_path: Path, files: list[PackageFile], chunks: list[bytes], reason: str
) -> None:
    with pytest.raises(BuildFailed, match=reason):
        write(tmp_path, files, chunks)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", "", ".", "a\0b", "x" * 2000])
def test_a_path_that_could_leave_its_folder_is_refused(path: str) -> None:
    with pytest.raises(BuildFailed, match=r"announced a file at|longer than"):
        check_files(announced((path, 1)), 1)


def test_too_many_files_or_bytes_are_refused_with_the_limit() -> None:
    with pytest.raises(BuildFailed, match="at most 40000"):
        check_files(announced(("a", 0)) * (FILES_LIMIT + 1), 1)
    with pytest.raises(BuildFailed, match="take 2 MiB once installed; at most 1 are"):
        check_files(announced(("a", 2 << 20)), 1)
    with pytest.raises(BuildFailed, match="announced a file at"):
        check_files(announced(("a", -1)), 1)
