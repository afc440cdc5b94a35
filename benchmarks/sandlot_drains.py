"""Drain rates of Sandlot's queue, over HTTP.

A submitted job goes straight to an idle slot, so a queue only forms while none is idle: `hold`
keeps all slots busy until one moment.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from benchmarks.drains import Plan, rate
from benchmarks.hosting import Hosted
from benchmarks.results import Drained
from benchmarks.servers import ServerFailed
from benchmarks.submitter import submit

HOLDS: Final = 64
"""More slots than `sandlot up` has on small machines; checked, since no job may start early."""
CONNECTIONS: Final = 16
WAIT_S: Final = 30


def drain(host: Hosted, function: str, workload: str, plan: Plan, round_number: int) -> Drained:
    """Measure submit and drain rate of Sandlot for `plan.jobs` calls of `function`.

    Raises:
        ServerFailed: a job did not succeed, or started before the queue was full.
        SubmitFailed: a submit was refused.
    """
    hold_s = 1.0 + plan.jobs / 1500  # seconds; a slower submit is detected below
    until_s = time.time() + hold_s
    submit(host.url("hold"), json.dumps({"until_s": until_s}), HOLDS, CONNECTIONS)
    submitted = submit(host.url(function), "{}", plan.jobs, CONNECTIONS)
    if time.time() > until_s:
        raise ServerFailed(f"submitting {plan.jobs} jobs took longer than the {hold_s:.1f} s the slots were held")
    ends = _ends(host, submitted.locations[:: plan.every], until_s, plan.limit_s)
    marks = sorted(((index * plan.every, end_s) for index, end_s in enumerate(ends)), key=lambda mark: mark[1])
    return Drained(
        host.contender.name, workload, round_number, plan.jobs, plan.jobs / submitted.duration_s, rate(marks)
    )


def _ends(host: Hosted, locations: Sequence[str], until_s: float, limit_s: float) -> list[float]:
    """Return the times at which these jobs ended, by Redis's clock."""
    deadline_s = until_s + limit_s + WAIT_S
    connection = http.client.HTTPConnection("127.0.0.1", host.place.port, timeout=WAIT_S + 10)
    key = (host.place.run_dir / "sandlot" / "key").read_text(encoding="ascii").strip()
    headers = {"Authorization": f"Bearer {key}", "Prefer": f"wait={WAIT_S}"}
    try:
        ends = []
        for location in reversed(locations):  # the last one first: nothing else is asked of the API while it is awaited
            job = _job(connection, location, headers)
            if job["status"] != "succeeded":
                raise ServerFailed(
                    f"{location} is {job['status']} {time.time() - deadline_s + limit_s + WAIT_S:.0f} s after the hold: {job}"
                )
            if _seconds(job["started_at"]) < until_s - 0.5:
                raise ServerFailed(
                    f"{location} started before the queue was full: the worker has more than {HOLDS} slots"
                )
            ends.append(_seconds(job["ended_at"]))
        return ends[::-1]
    finally:
        connection.close()


def _job(connection: http.client.HTTPConnection, location: str, headers: dict[str, str]) -> Any:  # noqa: ANN401 - a document of the API
    connection.request("GET", location, headers=headers)
    reply = connection.getresponse()
    body = reply.read()
    if reply.status != 200:
        raise ServerFailed(f"GET {location} answered {reply.status} {body[:300]!r}")
    return json.loads(body)


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
