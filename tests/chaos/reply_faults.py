"""Lost replies: Redis executes a script, and its sender never gets the reply."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from sandlot.functions.store import FunctionStore
from sandlot.redis.lua import script
from tests.chaos.connections import Answer
from tests.chaos.proxy import Proxy
from tests.chaos.scene import Act, Scene

Errand = Callable[[Scene, int, Callable[[], None]], Awaitable[None]]
"""Makes a process send the script once.

Takes the number of the turn, and a callable to call just before the command whose reply is lost."""
SOURCE: Final = "def handler(event, context):\n    return 1\n"
UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True)
class Sender:
    """The sender of a script: its proxy, and the errand that makes it send, if it needs one."""

    side: Literal["api", "workers"]
    errand: Errand | None = None
    of_registry: bool = False


def lose_replies(name: str) -> Act:
    sender = SENDERS[name]

    async def act(scene: Scene) -> None:
        proxy = scene.rig.to_api if sender.side == "api" else scene.rig.to_workers
        marker = _sha(scene, name).encode()
        ends_s = time.monotonic() + scene.length_s
        turn = 0
        while time.monotonic() < ends_s or (not proxy.swallowed and time.monotonic() < ends_s + 10):
            await scene.pause(0.2, 0.5)
            turn += 1
            if sender.errand is None:
                proxy.lose(marker)
            else:
                await sender.errand(scene, turn, lambda: proxy.lose(marker))
        _stop_losing(proxy)
        if not proxy.swallowed:
            scene.history.broke.append(f"no reply of {name} was swallowed in {turn} tries: the fault did not happen")

    act.__doc__ = f"Redis executes {name}; the sender loses the connection instead of getting the reply."
    return act


def _sha(scene: Scene, name: str) -> str:
    """The registry's scripts are redis-py's to send, and put together by its store."""
    if not SENDERS[name].of_registry:
        return script(name).sha
    sha: str = getattr(FunctionStore(scene.rig.redis), f"_{name}_script").sha
    return sha


def _stop_losing(proxy: Proxy) -> None:
    proxy.lose(b"", 0)


# The workers' side.


async def _release(scene: Scene, turn: int, lose: Callable[[], None]) -> None:
    """Twice SIGTERM makes a worker give back what it runs."""
    victim = scene.dice.choice(scene.rig.living())
    await scene.rig.start_worker(through_proxy=True)
    for _ in range(4):
        scene.callers.call(sync=False, work_s=1.5)
    await asyncio.sleep(0.3)
    lose()
    affected = await scene.rig.held_by(victim)
    victim.signal(signal.SIGTERM)
    await asyncio.sleep(0.1)
    scene.struck(f"{victim.name} gives back", affected)
    status = await victim.stop()
    if status != 0:
        scene.history.broke.append(f"{victim.name} ended with {status} after two SIGTERMs: {victim.tail()}")


async def _judge(scene: Scene, turn: int, lose: Callable[[], None]) -> None:
    """A first attempt that raises is judged: it will run again."""
    lose()
    await scene.callers.call(sync=True, work_s=0.05, fails=True)


async def _bury(scene: Scene, turn: int, lose: Callable[[], None]) -> None:
    victim = scene.dice.choice(scene.rig.living())
    affected = await scene.rig.held_by(victim)
    await victim.kill()
    scene.struck(f"killed {victim.name}", affected)
    lose()
    await scene.rig.report_end(victim, through_proxy=True)
    await scene.rig.start_worker(through_proxy=True)


# The API's side: jobs.


async def _cancel(scene: Scene, turn: int, lose: Callable[[], None]) -> None:
    """Accept 202, or 409 if the job has ended or the first try had cancelled it."""
    job_ids = sorted(await scene.observer.unfinished())
    if job_ids:
        lose()
        await scene.callers.cancel(scene.dice.choice(job_ids))


async def _attach(scene: Scene, turn: int, lose: Callable[[], None]) -> None:
    """Wait for a running job as a second caller."""
    job_ids = sorted(await scene.observer.unfinished())
    if job_ids:
        lose()
        job_id = scene.dice.choice(job_ids)
        answer = await scene.callers.ask("GET", f"/v1/jobs/{job_id}", headers={"prefer": "wait=20"})
        _expect(scene, "the job", answer, "succeeded", answer.json().get("status"))


# The API's side: functions. The caller gets an error, repeats the request and finds it done once.


async def _deploy(scene: Scene, turn: int, lose: Callable[[], None]) -> None:
    lose()
    answer = await _until_done(scene, "PUT", f"/v1/functions/extra-{turn}", {"source": SOURCE, "filename": "extra.py"})
    _expect(scene, "the only version", answer, 1, answer.json().get("version"))


async def _alias(scene: Scene, turn: int, lose: Callable[[], None]) -> None:
    path = f"/v1/functions/extra-{turn}"
    await _until_done(scene, "PUT", path, {"source": SOURCE, "filename": "extra.py"})
    await _until_done(scene, "PUT", f"{path}/aliases/loads-the-script", {"version": 1})
    lose()
    answer = await _until_done(scene, "PUT", f"{path}/aliases/live", {"version": 1})
    _expect(scene, "the alias", answer, 1, answer.json().get("version"))


async def _undeploy(scene: Scene, turn: int, lose: Callable[[], None]) -> None:
    for name in (f"loads-the-script-{turn}", f"extra-{turn}"):
        await _until_done(scene, "PUT", f"/v1/functions/{name}", {"source": SOURCE, "filename": "extra.py"})
    await _until_done(scene, "DELETE", f"/v1/functions/loads-the-script-{turn}")
    lose()
    await _until_done(scene, "DELETE", f"/v1/functions/extra-{turn}")
    answer = await scene.callers.ask("GET", f"/v1/functions/extra-{turn}")
    _expect(scene, "the removed function", answer, 404, answer.status)


async def _until_done(scene: Scene, method: str, path: str, body: Any = None) -> Answer:
    content = b"" if body is None else json.dumps(body).encode()
    while True:
        answer = await scene.callers.ask(method, path, content, {"content-type": "application/json"})
        if answer.status != UNAVAILABLE:
            return answer
        await asyncio.sleep(0.05)


def _expect(scene: Scene, what: str, answer: Answer, wanted: object, found: object) -> None:
    if found != wanted:
        scene.history.broke.append(f"{what} should be {wanted!r}: {answer.status} {answer.body[:300]!r}")


SENDERS: Final = {
    "submit": Sender("api"),
    "cancel": Sender("api", _cancel),
    "add_waiter": Sender("api", _attach),
    "settle_and_claim": Sender("workers"),
    "retry_or_fail": Sender("workers", _judge),
    "heartbeat": Sender("workers"),
    "reap": Sender("workers"),
    "release": Sender("workers", _release),
    "worker_died": Sender("workers", _bury),
    "deploy": Sender("api", _deploy, of_registry=True),
    "close_breaker": Sender("api", _deploy),
    "prune": Sender("api", _deploy, of_registry=True),
    "alias": Sender("api", _alias, of_registry=True),
    "undeploy": Sender("api", _undeploy, of_registry=True),
    "cancel_queued": Sender("api", _undeploy),
}
"""Every script there is: `tests/unit/chaos/test_scripts.py` sees to it."""
FRAGMENTS: Final = {"prelude", "revision"}
"""Texts that are put before others and never sent alone."""
ELSEWHERE: Final[dict[str, str]] = (
    dict.fromkeys(
        ("build_claim", "build_heartbeat", "build_finish"),
        "tests/jobs/test_functions_builds.py::test_a_reply_that_is_lost_costs_a_build_no_more_than_its_lease",
    )
    | dict.fromkeys(
        ("callback_claim", "callback_finish"),
        "tests/jobs/test_callbacks.py::test_a_lost_reply_delivers_no_callback_twice_within_the_lease",
    )
    | {"put_result_chunk": "tests/jobs/test_results.py::test_a_piece_whose_reply_is_lost_is_stored_once_more"}
    | dict.fromkeys(
        ("follow", "append_logs"),
        "tests/jobs/test_engine_faults.py::test_live_logs_are_neither_doubled_nor_lost_with_a_reply",
    )
    | {"queue_eta": "tests/jobs/test_transitions.py::test_a_queue_eta_whose_reply_is_lost_is_repeated"}
    | {"keep_result": "tests/jobs/test_delivered_results.py::test_keep_result_works_when_its_reply_is_lost"}
)
"""Scripts that no plan of these loses the reply of -> the test that does."""
