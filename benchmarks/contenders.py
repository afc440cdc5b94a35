"""The contenders: Sandlot and its peers, the guarantees of each, and how each is started.

The command lines come from each project's own documentation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks import workloads
from benchmarks.environment import PEERS, ROOT, Environment
from benchmarks.servers import Program
from benchmarks.valkey import Sync
from benchmarks.workloads import Cell

TUNED_POLL_S: Final = "0.005"
"""Poll interval to which arq, SAQ and taskiq are tuned.

A shorter one costs more CPU than it saves waiting time here.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """The surroundings of one run.

    `redis_url` is "" for contenders that bring Redis or need none.
    """

    port: int
    run_dir: Path
    redis_url: str
    cpus: int
    environment: Environment


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the table.

    `module` is the peer's file, whose `enqueue` fills its queue; "" for contenders without a queue.
    """

    name: str
    label: str
    queue: bool
    durable: bool
    sandbox: str
    front: Callable[[Place], Program]
    workers: Callable[[Place], Program] | None = None
    module: str = ""
    valkey: Sync | None = None
    needs_node: bool = False
    cells: tuple[Cell, ...] = workloads.FULL
    path: str = "/{function}"
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def drains(self) -> bool:
        return self.queue and self.cells == workloads.FULL


def _python(place: Place, *arguments: str, arq: bool = False, **variables: str) -> Program:
    python = place.environment.arq_python if arq else place.environment.python
    environment = {
        "BENCH_REDIS": place.redis_url,
        "BENCH_MARKS": str(place.run_dir / "marks"),
        "BENCH_CPUS": str(place.cpus),
        **variables,
    }
    return Program((str(python), *arguments), environment, PEERS)


def _uvicorn(module: str, *, arq: bool = False, **variables: str) -> Callable[[Place], Program]:
    """One process, as in its own quickstart, with uvloop and httptools installed."""
    return lambda place: _python(
        place,
        "-m",
        "uvicorn",
        f"{module}:app",
        "--port",
        str(place.port),
        "--log-level",
        "warning",
        "--no-access-log",
        arq=arq,
        **variables,
    )


def _rq(worker_class: str) -> Callable[[Place], Program]:
    return lambda place: _python(
        place,
        "-m",
        "rq.cli",
        "worker-pool",
        "--quiet",
        "--num-workers",
        str(place.cpus),
        "--worker-class",
        worker_class,
        "--url",
        place.redis_url,
    )


def _celery(place: Place) -> Program:
    return _python(
        place,
        "-m",
        "celery",
        "-A",
        "fastapi_celery:celery",
        "worker",
        "--concurrency",
        str(place.cpus),
        "--loglevel",
        "warning",
    )


def _dramatiq(place: Place) -> Program:
    return _python(place, "-m", "dramatiq", "fastapi_dramatiq", "--processes", str(place.cpus), "--skip-logging")


def _arq(poll_s: str) -> Callable[[Place], Program]:
    return lambda place: _python(
        place,
        "-m",
        "arq",
        "fastapi_arq.WorkerSettings",
        "--custom-log-dict",
        "fastapi_arq.QUIET",
        arq=True,
        BENCH_POLL_S=poll_s,
    )


def _saq(place: Place) -> Program:
    started = _python(place, "-m", "saq", "fastapi_saq.settings", "--workers", str(place.cpus), "--quiet")
    return replace(started, forwards_signals=False)


def _taskiq(place: Place) -> Program:
    return _python(
        place, "-m", "taskiq", "worker", "fastapi_taskiq:broker", "--workers", str(place.cpus), "--log-level", "WARNING"
    )


def _framework(place: Place) -> Program:
    return _python(
        place,
        "-m",
        "functions_framework",
        "--source",
        "framework.py",
        "--target",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(place.port),
    )


def _koa(place: Place) -> Program:
    folder = place.environment.node_folder
    return Program(
        (str(place.environment.node), "koa_safeify.mjs"),
        {"PORT": str(place.port), "BENCH_CPUS": str(place.cpus)},
        folder,
    )


def sandlot_up(*options: str, **variables: str) -> Callable[[Place], Program]:
    """Return `sandlot up` as a user would start it, with its state in the run's folder.

    `sandbox=strict` makes it refuse to start without the strict isolation layers.
    """

    def program(place: Place) -> Program:
        argv = (
            str(Path(sys.executable).with_name("sandlot")),
            "up",
            *(
                "--port",
                str(place.port),
                "--data",
                str(place.run_dir / "sandlot"),
                "--functions",
                str(ROOT / "benchmarks" / "functions"),
            ),
            *options,
        )
        return Program(argv, {"SANDLOT_SANDBOX": "strict", **variables}, place.run_dir)

    return program


_INVOKE: Final = "/v1/functions/{function}/invoke"

SANDLOT: Final = Contender("sandlot", "Sandlot", True, True, "strict sandbox", sandlot_up(), path=_INVOKE)
SANDLOT_ALWAYS: Final = Contender(
    "sandlot-always",
    "Sandlot, AOF always",
    True,
    True,
    "strict sandbox",
    sandlot_up("--durability", "always"),
    path=_INVOKE,
)


def peers(sync: Sync) -> tuple[Contender, ...]:
    """Return the peers; the Valkey of those with a queue syncs as `sync` says."""

    def queue(
        name: str, label: str, module: str, workers: Callable[[Place], Program], poll_s: str = "", brief: bool = False
    ) -> Contender:
        variables = {"BENCH_POLL_S": poll_s} if poll_s else {}
        front = _uvicorn(module, arq=module == "fastapi_arq", **variables)
        cells = workloads.BRIEF if brief else workloads.FULL
        return Contender(name, label, True, True, "no", front, workers, module, sync, cells=cells)

    return (
        Contender("fastapi", "bare FastAPI", False, False, "no", _uvicorn("bare_fastapi")),
        queue("rq-fork", "FastAPI + RQ (fork worker)", "fastapi_rq", _rq("rq.worker.Worker")),
        queue("rq-simple", "FastAPI + RQ (SimpleWorker)", "fastapi_rq", _rq("rq.worker.SimpleWorker")),
        queue("celery", "FastAPI + Celery (prefork)", "fastapi_celery", _celery),
        queue("dramatiq", "FastAPI + dramatiq", "fastapi_dramatiq", _dramatiq),
        queue("arq", "FastAPI + arq, tuned", "fastapi_arq", _arq(TUNED_POLL_S), TUNED_POLL_S),
        queue("arq-default", "FastAPI + arq, default", "fastapi_arq", _arq("0.5"), "0.5", brief=True),
        queue("saq", "FastAPI + SAQ, tuned", "fastapi_saq", _saq, TUNED_POLL_S),
        queue("saq-default", "FastAPI + SAQ, default", "fastapi_saq", _saq, "0.5", brief=True),
        queue("taskiq", "FastAPI + taskiq, tuned", "fastapi_taskiq", _taskiq, TUNED_POLL_S),
        queue("taskiq-default", "FastAPI + taskiq, default", "fastapi_taskiq", _taskiq, "0.2", brief=True),
        Contender(
            "koa-safeify", "Koa + safeify (the exercise)", False, False, "vm2, in-process", _koa, needs_node=True
        ),
        Contender("functions-framework", "functions-framework (Python)", False, False, "no", _framework),
    )


def everyone(sync: Sync) -> tuple[Contender, ...]:
    return (SANDLOT, SANDLOT_ALWAYS, *peers(sync))


def cpu_count() -> int:
    return len(os.sched_getaffinity(0))
