"""Processes that find data of another schema: they refuse to start and say what to do.

Running processes continue.
"""

from __future__ import annotations

import signal
from typing import Any

import httpx
import redis

from sandlot.redis import keys
from sandlot.redis.schema import SCHEMA
from tests.system.http.conftest import Stack
from tests.waiting import until


def test_an_incompatible_version_does_not_start_and_running_processes_continue(own: Stack) -> None:
    api, url = own.start_api(SANDLOT_API_PROCESSES="2")
    until(lambda: len(_events(api, "listening")) == 2, reason=lambda: "".join(api.lines))
    with redis.Redis.from_url(own.environment["SANDLOT_REDIS_URL"]) as superuser:
        superuser.set(keys.SCHEMA, SCHEMA + 1)
        before = set(superuser.keys())
        for part, status in ((own.start("api"), 2), (own.start("worker"), 2), (_key_list(own), 4)):
            assert part.process.wait(30) == status
            part.stop()
            said = "".join(part.lines)
            assert f"the data in this Redis has schema {SCHEMA + 1}" in said
            assert "Start the Sandlot that wrote it or a newer one" in said
        api.process.send_signal(signal.SIGHUP)
        until(lambda: len(_events(api, "process not renewed")) == 2, reason=lambda: "".join(api.lines))
        assert len(_events(api, "listening")) == 2
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        assert set(superuser.keys()) == before


def _key_list(own: Stack) -> Any:
    return own.start("api", command=("-m", "sandlot", "key", "list"))


def _events(part: object, name: str) -> list[str]:
    return [line for line in part.lines if f'"event": "{name}"' in line]
