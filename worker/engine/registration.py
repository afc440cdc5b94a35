"""What makes the engine a worker in RQ's eyes, and what of RQ it refuses to be.

Knows: rq.worker.BaseWorker (3.0): birth, death, registration. Does not know: steps, executions.
RQ's loop, its pub/sub commands, its scheduler and `perform` obey what Redis says: names to import, callbacks, webhooks, shutdowns. None of
them is reachable here.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from typing import Final, NoReturn

import redis
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

REGISTRATION_TTL_S: Final = 60
"""How long RQ's tools show a worker that died without a word. It beats every second."""


def worker_name() -> str:
    """Unique, since a name must not be taken by one that was killed a moment ago; with host and pid, for whoever looks."""
    return f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"


class Registration(BaseWorker):
    """An `rq.worker.BaseWorker` whose registration is RQ's and whose work is not."""

    def __init__(self, connection: redis.Redis, name: str, placements: Sequence[str]) -> None:
        # Queues come and go with functions; a worker serves all of its placements. `*@python` says so to whoever reads `rq info`.
        # RQ separates names by commas, so a tag is shown behind a plus.
        queues = [f"*@{placement.replace(',', '+')}" for placement in placements]
        super().__init__(
            queues, name=name, connection=connection, serializer=JSONSerializer, worker_ttl=REGISTRATION_TTL_S
        )

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        """RQ would raise the socket's timeout to minutes, for its blocking pops; nothing blocks here."""
        return connection

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("a Sandlot worker does not run RQ's own loop; use Engine.run")

    work = bootstrap = subscribe = handle_payload = _refuse
    execute_job = perform_job = main_work_horse = prepare_execution = prepare_job_execution = _refuse
    dequeue_job_and_maintain_ttl = maintain_heartbeats = clean_registries = run_maintenance_tasks = _refuse
    handle_job_success = handle_job_failure = handle_job_retry = handle_exception = _start_scheduler = _refuse
    _install_signal_handlers = request_stop = request_force_stop = _refuse
