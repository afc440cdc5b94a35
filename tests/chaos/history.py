"""The history of a plan (what was promised and what was observed), and its judgement.

The rules, for every invocation that the API acknowledged:
- it has a record, and the record is final; otherwise it is *lost*;
- it has exactly one record: one entry in the stream of results, one registry, and one job per
  idempotency key; otherwise it is *doubled*;
- a final record never changes, and agrees with the reply to a synchronous caller; otherwise it is
  *changed*;
- no attempt was started twice, and the recorded one was started; otherwise it is *unfenced*.
Running again with another attempt breaks no rule: that is the meaning of at-least-once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sandlot.models import OutcomeKind

FINAL_KINDS: Final = frozenset(kind.value for kind in OutcomeKind)


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A 2xx with a job's id, or a synchronous reply that names the job.

    `kind` and `attempt` are those of a synchronous reply.
    """

    request: int
    job_id: str
    at_ms: float
    kind: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """The fields in Redis of a job that has ended, none of which may change."""

    kind: str
    attempt: int
    text: bytes
    queued_ms: int
    ended_ms: int
    entries: tuple[bytes, ...]
    """Its results stream, each entry's id and fields; one, or none for a job that never ran."""
    released: int = 0
    """How many of its attempts were given back; they cost the job nothing."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of a job at the very end.

    It has the RQ registries that list the job, whether anything still holds it, and whether it is
    gone.
    """

    registries: tuple[str, ...]
    held: bool
    gone: bool = False


@dataclass(slots=True)
class Strike:
    """A fault and the jobs it hit, some possibly later: those handed to a host already cut off.

    Recovery is measured from `from_ms`, by the machine's clock, or from the job's own start if that
    was later.
    """

    what: str
    from_ms: float
    affected: set[str]


@dataclass(slots=True)
class History:
    """Everything that was seen of one plan."""

    acknowledged: list[Acknowledgement] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """Answers that acknowledge nothing, by their code; their callers tried again."""
    records: dict[str, list[Record]] = field(default_factory=dict)
    """Every different final record seen of a job, in order."""
    standings: dict[str, Standing] = field(default_factory=dict)
    runs: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How often each attempt was started, by the workers' own logs."""
    strikes: list[Strike] = field(default_factory=list)
    broke: list[str] = field(default_factory=list)
    """Processes of the platform that ended although the plan did not end them."""
    requests: int = 0
    jobs: int = 0
    """Jobs that Redis has, acknowledged or not."""

    @property
    def ids(self) -> set[str]:
        return {one.job_id for one in self.acknowledged}

    def saw(self, job_id: str, record: Record) -> None:
        seen = self.records.setdefault(job_id, [])
        if not seen or seen[-1] != record:
            seen.append(record)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The offences by rule, each as `job id: what is wrong`; all empty if every rule holds."""

    acknowledged: int
    lost: list[str]
    doubled: list[str]
    changed: list[str]
    unfenced: list[str]
    broke: list[str]
    given_up: int
    """Jobs that ended as `worker_lost`, after their last attempt: reported, not lost."""
    repeated: int
    """How often a job was started again, without attempts given back before they started."""
    spent: int
    """Jobs that ended with fewer attempts left than one that is run once."""
    recovery_s: list[float]
    """For each job a fault hit, from the fault to its end; sorted."""

    @property
    def offences(self) -> list[str]:
        return [*self.lost, *self.doubled, *self.changed, *self.unfenced, *self.broke]


def judge(history: History) -> Judgement:
    return Judgement(
        acknowledged=len(history.ids),
        lost=_lost(history),
        doubled=_doubled(history),
        changed=_changed(history),
        unfenced=_unfenced(history),
        broke=list(history.broke),
        given_up=sum(seen[-1].kind == "worker_lost" for seen in history.records.values()),
        repeated=len(history.runs) - len({job_id for job_id, _ in history.runs}),
        spent=sum(seen[-1].attempt - seen[-1].released > 1 for seen in history.records.values()),
        recovery_s=_recovery_s(history),
    )


def _lost(history: History) -> list[str]:
    offences = []
    for job_id in sorted(history.ids):
        seen = history.records.get(job_id)
        standing = history.standings.get(job_id)
        if not seen:
            offences.append(f"{job_id}: acknowledged, and has no final record")
        elif seen[-1].kind not in FINAL_KINDS:
            offences.append(f"{job_id}: ended as {seen[-1].kind!r}, which is not an outcome")
        elif standing is not None and standing.gone:
            offences.append(f"{job_id}: had ended, and its record is gone")
        elif standing is not None and standing.held:
            offences.append(f"{job_id}: has ended and is still queued, scheduled or leased")
    return offences


def _doubled(history: History) -> list[str]:
    offences = []
    for job_id, seen in history.records.items():
        if len(seen[-1].entries) > 1:
            offences.append(f"{job_id}: {len(seen[-1].entries)} results are recorded")
        standing = history.standings.get(job_id)
        if standing is not None and len(standing.registries) != 1:
            offences.append(f"{job_id}: is listed in {standing.registries or 'no registry'}")
    by_request: dict[int, set[str]] = {}
    for one in history.acknowledged:
        by_request.setdefault(one.request, set()).add(one.job_id)
    offences += [
        f"request {request}: one idempotency key, {len(ids)} jobs: {sorted(ids)}"
        for request, ids in by_request.items()
        if len(ids) > 1
    ]
    if history.jobs > history.requests:
        offences.append(f"{history.requests} requests made {history.jobs} jobs")
    return offences


def _changed(history: History) -> list[str]:
    offences = [
        f"{job_id}: its record was {seen[0].kind} of attempt {seen[0].attempt}, then {seen[1].kind} of attempt {seen[1].attempt}"
        for job_id, seen in history.records.items()
        if len(seen) > 1
    ]
    for told in history.acknowledged:
        seen = history.records.get(told.job_id)
        if told.kind and seen and (seen[0].kind, seen[0].attempt) != (told.kind, told.attempt or seen[0].attempt):
            offences.append(
                f"{told.job_id}: its caller got {told.kind} of attempt {told.attempt},"
                f" recorded is {seen[0].kind} of attempt {seen[0].attempt}"
            )
    return offences


def _unfenced(history: History) -> list[str]:
    offences = [
        f"{job_id}: attempt {attempt} was started {times} times"
        for (job_id, attempt), times in history.runs.items()
        if times > 1
    ]
    for job_id, seen in history.records.items():
        if seen[-1].kind == "ok" and (job_id, seen[-1].attempt) not in history.runs:
            offences.append(f"{job_id}: attempt {seen[-1].attempt} is on record and was never started")
    return offences


def _recovery_s(history: History) -> list[float]:
    took = []
    for strike in history.strikes:
        for job_id in strike.affected:
            seen = history.records.get(job_id)
            if seen and seen[0].ended_ms > strike.from_ms:
                took.append((seen[0].ended_ms - max(strike.from_ms, seen[0].queued_ms)) / 1000)
    return sorted(took)


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value that this share of them does not exceed; nothing of nothing."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
