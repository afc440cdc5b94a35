"""The judge of the fault harness, against histories that break each rule: a judge that lets all pass proves nothing."""

from __future__ import annotations

import pytest

from tests.chaos.history import Acknowledgement, History, Record, Standing, Strike, judge, percentile

JOB = "job-1"


def record(**fields: object) -> Record:
    given = {
        "kind": "ok",
        "attempt": 1,
        "text": b"t",
        "queued_ms": 900,
        "ended_ms": 2000,
        "entries": (b"1-0",),
    } | fields
    return Record(**given)  # type: ignore[arg-type]


@pytest.fixture
def history() -> History:
    """One job, and everything as it should be."""
    sound = History(requests=1, jobs=1)
    sound.acknowledged.append(Acknowledgement(1, JOB, 1000.0, "ok", 1))
    sound.saw(JOB, record())
    sound.standings[JOB] = Standing(("finished",), held=False)
    sound.runs[JOB, 1] = 1
    return sound


def test_a_sound_history_has_no_offences(history: History) -> None:
    judgement = judge(history)
    assert (judgement.offences, judgement.acknowledged, judgement.repeated) == ([], 1, 0)


def test_an_acknowledged_job_without_an_end_is_lost(history: History) -> None:
    history.acknowledged.append(Acknowledgement(2, "job-2", 1000.0))
    history.requests = 2
    assert judge(history).lost == ["job-2: acknowledged, and has no final record"]


def test_an_end_that_is_still_held_is_not_the_end(history: History) -> None:
    history.standings[JOB] = Standing(("finished",), held=True)
    assert len(judge(history).lost) == 1


def test_a_record_that_is_gone_at_the_end_is_lost(history: History) -> None:
    history.standings[JOB] = Standing((), held=False, gone=True)
    assert judge(history).lost == [f"{JOB}: had ended, and its record is gone"]


@pytest.mark.parametrize(("attempt", "released", "spent"), [(1, 0, 0), (3, 2, 0), (2, 0, 1), (3, 1, 1), (0, 0, 0)])
def test_attempts_that_were_given_back_are_not_spent(history: History, attempt: int, released: int, spent: int) -> None:
    history.records[JOB] = [record(attempt=attempt, released=released)]
    assert judge(history).spent == spent


def test_two_results_are_doubled(history: History) -> None:
    history.records[JOB] = [record(entries=(b"1-0", b"2-0"))]
    assert judge(history).doubled == [f"{JOB}: 2 results are recorded"]


@pytest.mark.parametrize("registries", [(), ("finished", "failed")])
def test_a_job_belongs_in_one_registry(history: History, registries: tuple[str, ...]) -> None:
    history.standings[JOB] = Standing(registries, held=False)
    assert len(judge(history).doubled) == 1


def test_two_jobs_for_one_idempotency_key_are_doubled(history: History) -> None:
    history.acknowledged.append(Acknowledgement(1, "job-2", 1000.0))
    history.saw("job-2", record())
    assert any("one idempotency key" in offence for offence in judge(history).doubled)


def test_more_jobs_than_requests_are_doubled(history: History) -> None:
    history.jobs = 2
    assert judge(history).doubled == ["1 requests made 2 jobs"]


@pytest.mark.parametrize("field", [{"kind": "error"}, {"attempt": 2}, {"text": b"u"}, {"entries": (b"1-1",)}])
def test_a_record_that_differs_later_is_changed(history: History, field: dict[str, object]) -> None:
    history.saw(JOB, record(**field))
    assert len(judge(history).changed) == 1


def test_a_record_that_differs_from_the_callers_reply_is_changed(history: History) -> None:
    history.acknowledged.append(Acknowledgement(1, JOB, 1000.0, "ok", 2))
    assert len(judge(history).changed) == 1


def test_an_attempt_that_ran_twice_is_unfenced(history: History) -> None:
    history.runs[JOB, 1] = 2
    assert judge(history).unfenced == [f"{JOB}: attempt 1 was started 2 times"]


def test_a_result_of_an_attempt_that_never_ran_is_unfenced(history: History) -> None:
    history.runs.clear()
    assert len(judge(history).unfenced) == 1


def test_a_second_attempt_is_not_an_offence(history: History) -> None:
    history.runs[JOB, 2] = 1
    assert (judge(history).offences, judge(history).repeated) == ([], 1)


def test_an_attempt_that_was_given_back_unstarted_is_not_repeated(history: History) -> None:
    history.runs.clear()
    history.runs[JOB, 2] = 1
    assert judge(history).repeated == 0


def test_recovery_counts_from_the_fault_or_from_the_jobs_own_beginning(history: History) -> None:
    history.strikes = [Strike("early", 500.0, {JOB}), Strike("late", 1500.0, {JOB}), Strike("after", 2500.0, {JOB})]
    assert judge(history).recovery_s == [0.5, 1.1]


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99), percentile([], 0.5)) == (
        50.0,
        99.0,
        7.0,
        None,
    )
