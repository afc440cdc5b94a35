"""The audit log: what is bound together stays together, and what is not is found."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import msgspec
import pytest

from sandlot.audit_log import AuditLog, ChainHead, Entry, chain_file, verify
from sandlot.errors import CallerError, InvalidSettings


def entry(number: int) -> Entry:
    return Entry(action="deploy", outcome="ok", function=f"f{number}", source="127.0.0.1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "audit.jsonl"


def write(path: Path, count: int) -> None:
    log = AuditLog(path)
    for number in range(count):
        log.write(entry(number))
    log.close()


def test_each_record_is_bound_to_the_one_before(path: Path) -> None:
    write(path, 3)
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    assert [line["n"] for line in lines] == [1, 2, 3]
    assert (lines[0]["action"], lines[0]["function"], lines[0]["previous"]) == ("deploy", "f0", "0" * 64)
    assert "digest" not in lines[0]
    assert verify([path]).n == 3
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda lines: [lines[0], lines[2]], "does not follow record 1"),
        (lambda lines: [lines[0], lines[1].replace(b'"f1"', b'"f7"'), lines[2]], "does not follow record 2"),
        (lambda lines: [lines[0], lines[0], lines[1], lines[2]], "does not follow record 1"),
        (lambda lines: [lines[1], lines[0], lines[2]], "does not follow"),
        (lambda lines: lines[:2], "the end was cut off"),
        (lambda lines: [*lines[:2], lines[2].replace(b'"f2"', b'"f7"')], "the end was cut off or changed"),
        (lambda lines: [*lines, b"nonsense"], "line 4: not a record"),
        (lambda lines: [], "ends with record 0, but 3"),
    ],
)
def test_every_manipulation_is_found(path: Path, damage: object, word: str) -> None:
    write(path, 3)
    path.write_bytes(b"".join(line + b"\n" for line in damage(path.read_bytes().splitlines())))  # type: ignore[operator]
    with pytest.raises(CallerError, match=word):
        verify([path])


def test_a_rotated_log_goes_on_in_the_next_file(path: Path) -> None:
    log = AuditLog(path)
    log.write(entry(0), entry(1))
    first = path.rename(path.with_suffix(".1"))
    log.write(entry(2))
    write(path, 1)  # another process, which has never seen the first file
    assert verify([first, path]).n == 4
    assert verify([path]).n == 4, "a file whose predecessors are kept elsewhere"
    with pytest.raises(CallerError, match="does not follow"):
        verify([path, first])
    first.unlink()
    path.unlink()
    log.write(entry(4))
    assert verify([path]) == ChainHead(5, verify([path]).hash)


def test_several_processes_write_one_chain(path: Path) -> None:
    writers = [multiprocessing.get_context("fork").Process(target=write, args=(path, 50)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert verify([path]).n == 200
    assert chain_file(path).stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_is_reported_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSettings, match=r"SANDLOT_AUDIT"):
        AuditLog(tmp_path / "file" / "audit.jsonl")
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidSettings, match="cannot write"):
        AuditLog(tmp_path / "link")
