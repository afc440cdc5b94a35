"""Ids of jobs sort by when they were made, cannot be guessed, and are recognised by whoever made them."""

from __future__ import annotations

import time
import uuid

import pytest

from sandlot.jobs.ids import new_job_id, was_issued

KEY = b"k" * 32


def test_they_are_uuids_of_version_7_and_all_different() -> None:
    before_ms = time.time_ns() // 1_000_000
    ids = [new_job_id(KEY, "ada") for _ in range(2000)]
    after_ms = time.time_ns() // 1_000_000
    assert len(set(ids)) == len(ids)
    for job_id in ids:
        parsed = uuid.UUID(job_id)
        assert (str(parsed), parsed.version, parsed.variant) == (job_id, 7, uuid.RFC_4122)
        assert before_ms <= parsed.int >> 80 <= after_ms


def test_a_later_one_sorts_after_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for at_ms in (1, 2, 10**12, 2**47):
        monkeypatch.setattr(time, "time_ns", lambda at_ms=at_ms: at_ms * 1_000_000)
        ids.append(new_job_id(KEY, "ada"))
    assert ids == sorted(ids)


def test_only_its_owner_learns_that_it_existed() -> None:
    job_id = new_job_id(KEY, "ada")
    assert was_issued(KEY, "ada", job_id)
    assert not was_issued(KEY, "grace", job_id)
    assert not was_issued(KEY, "", job_id)
    assert not was_issued(b"o" * 32, "ada", job_id)


@pytest.mark.parametrize(
    "made_up", ["", "x", "0" * 36, "0" * 32, "é" * 36, "4573033d-154a-44b9-920a-fb2b50af29c5", "-" * 36]
)
def test_invented_ids_are_not_recognised(made_up: str) -> None:
    assert not was_issued(KEY, "", made_up)


def test_a_changed_digit_is_noticed() -> None:
    job_id = new_job_id(KEY, "")
    for at in range(len(job_id)):
        if job_id[at] != "-":
            changed = job_id[:at] + ("0" if job_id[at] != "0" else "1") + job_id[at + 1 :]
            assert not was_issued(KEY, "", changed)
