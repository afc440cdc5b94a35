"""A function that the clock calls, over real HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx

from tests.waiting import until

SOURCE = {"source": "def handler(event, context):\n    return event['time']\n", "filename": "main.py"}


def test_a_schedule_creates_jobs_and_shows_the_next_due_time(admin: httpx.Client) -> None:
    manifest = {"schedule": "* * * * * *", "timezone": "Europe/Berlin"}
    admin.put("/v1/functions/by-clock", json=SOURCE | {"manifest": manifest}).raise_for_status()
    try:
        shown = admin.get("/v1/functions/by-clock").json()
        assert {key: shown["manifest"][key] for key in manifest} == manifest
        assert datetime.fromisoformat(shown["next_run_at"]).microsecond == 0

        def done() -> list[dict[str, Any]]:
            return admin.get("/v1/jobs?function=by-clock&status=succeeded").json()["jobs"]  # type: ignore[no-any-return]

        until(lambda: len(done()) >= 2)
        times = [admin.get(f"/v1/jobs/{job['id']}").json()["result"] for job in done()]
        assert len(times) == len(set(times)) >= 2
    finally:
        admin.delete("/v1/functions/by-clock").raise_for_status()
    assert admin.get("/v1/functions/by-clock").status_code == 404


def test_an_invalid_schedule_is_refused_and_its_key_named(admin: httpx.Client) -> None:
    reply = admin.put("/v1/functions/by-clock", json=SOURCE | {"manifest": {"schedule": "hourly"}})
    assert reply.status_code == 422, reply.text
    assert "schedule" in reply.json()["detail"]
