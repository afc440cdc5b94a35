"""A real worker process without sandboxes, to be killed: `python -m tests.jobs.worker_process URL KEY SECONDS [FAULT RESULT]`.

Each job appends `<job id> <attempt> <pid>` to the file its event names and ends after SECONDS. FAULT is a failpoint (`sandlot.failpoints`), RESULT the
file with what each job then returns.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import msgspec

from sandlot.failpoints import Failpoints
from sandlot.redis.connection import connect_blocking
from tests.jobs.inline_pool import OK, InlinePool
from worker.engine import Engine
from worker.engine.engine import worker_name
from worker.execution import Execution
from worker.metrics.counts import WorkerCounts
from worker.middleware.failpoints import open_failing_queue


async def main(url: str, key: str, seconds: float, fault: str = "", result: str = "") -> None:
    loop = asyncio.get_running_loop()
    ended = msgspec.structs.replace(OK, result=Path(result).read_bytes()) if result else OK  # noqa: ASYNC240  # before anything runs

    def behave(execution: Execution) -> None:
        with Path(json.loads(execution.event)).open("a") as journal:
            journal.write(f"{execution.job_id} {execution.attempt} {os.getpid()}\n")
        loop.call_later(seconds, pool.finish, execution.job_id, ended)

    pool = InlinePool(4, behave)
    points = Failpoints.parse(fault) or Failpoints(())
    queue = await open_failing_queue(points, url, key.encode(), worker_name(), ["python"])
    await Engine(connect_blocking(url), queue, pool, WorkerCounts(100), drain_s=30).run()
    await queue.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), *sys.argv[4:]))
