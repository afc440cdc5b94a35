"""`python -m tests.chaos`: every fault in turn, and a table. Exits with 1 if a promise was broken.

Knows: options, and how a judgement is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.chaos.history import History, Judgement, percentile
from tests.chaos.plans import PLANS
from tests.chaos.run import run_plan, why_not
from tests.chaos.scene import Plan

PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
ORPHANS_DEADLINE_S: Final = 10.0
COLUMNS: Final = (
    ("fault", 27), ("jobs", 5), ("ackd", 5), ("lost", 4), ("doubled", 7), ("changed", 7), ("unfenced", 8), ("again", 5), ("left", 4),
    ("hit", 4), ("p50 s", 6), ("p99 s", 6), ("from", 5), ("promised", 8), ("verdict", 0),
)  # fmt: skip


def main() -> int:
    options = _options()
    if options.list:
        for plan in PLANS:
            print(f"{plan.name:28}{(plan.act.__doc__ or '').splitlines()[0]}")
        return 0
    # Whatever a worker leaves behind when it is killed becomes our child, and is counted.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    print(f'seed {options.seed}; again with: make faults ARGS="--seed {options.seed}"\n')
    print("  ".join(name.ljust(width) for name, width in COLUMNS), flush=True)
    sound = True
    for plan in PLANS:
        if options.only and not any(word in plan.name for word in options.only):
            continue
        if reason := why_not(plan):
            print(f"{plan.name.ljust(COLUMNS[0][1])}  not run: {reason}")
            continue
        sound &= _run_and_print(plan, options)
    return 0 if sound else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make faults", description="Break the platform on purpose and judge what it did."
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="the dice of every plan")
    parser.add_argument("--only", action="append", metavar="TEXT", help="plans whose name has this text; repeatable")
    parser.add_argument("--scale", type=float, default=1.0, help="times each plan's length")
    parser.add_argument("--rate", type=float, help="requests a second instead of each plan's own")
    parser.add_argument("--keep", action="store_true", help="keep the folder of logs and data even if all is well")
    parser.add_argument("--list", action="store_true", help="name the plans and end")
    return parser.parse_args()


def _run_and_print(plan: Plan, options: argparse.Namespace) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="sandlot-faults-"))
    try:
        history, judgement = asyncio.run(
            run_plan(plan, options.seed, folder, length_s=plan.length_s * options.scale, rate_hz=options.rate)
        )
    except Exception as error:  # noqa: BLE001 - whatever went wrong with one plan, the others are run
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        print(
            f"{plan.name.ljust(COLUMNS[0][1])}  FAILED: {type(error).__name__}: {error}\n    see {folder}", flush=True
        )
        _reap_orphans()
        return False
    left = _reap_orphans()
    verdict, sound = _verdict(plan, judgement, left)
    print(_row(plan, history, judgement, left, verdict), flush=True)
    for offence in [] if plan.must_lose else judgement.offences[:10]:
        print(f"    {offence}", flush=True)
    if sound and not options.keep:
        shutil.rmtree(folder)
    else:
        print(f"    refused: {dict(history.refused)}; logs: {folder}", flush=True)
    return sound


def _verdict(plan: Plan, judgement: Judgement, left: int) -> tuple[str, bool]:
    if plan.must_lose:
        return (f"{len(judgement.lost)} lost, as it must be", True) if judgement.lost else ("LOST NOTHING", False)
    if judgement.offences or left:
        return "BROKEN", False
    if judgement.spent and not plan.may_spend:
        return f"{judgement.spent} attempts spent", False
    if judgement.repeated and not plan.may_repeat:
        return f"{judgement.repeated} repeated", False
    p99_s = percentile(judgement.recovery_s, 0.99)
    # Measured is the end of the job, promised its start.
    if plan.bound_s is not None and p99_s is not None and p99_s > plan.bound_s + plan.work_s[1]:
        return "slow", False
    return ("kept" if judgement.acknowledged else "nothing was acknowledged"), bool(judgement.acknowledged)


def _row(plan: Plan, history: History, judgement: Judgement, left: int, verdict: str) -> str:
    def seconds(share: float) -> str:
        value = percentile(judgement.recovery_s, share)
        return "-" if value is None else f"{value:.2f}"

    extra = f" ({judgement.given_up} worker_lost)" if judgement.given_up else ""
    cells = (
        plan.name, history.jobs, judgement.acknowledged, len(judgement.lost), len(judgement.doubled), len(judgement.changed),
        len(judgement.unfenced), judgement.repeated, left, len(judgement.recovery_s), seconds(0.5), seconds(0.99), plan.measured_from,
        "-" if plan.bound_s is None else f"{plan.bound_s:.0f} s", verdict + extra,
    )  # fmt: skip
    return "  ".join(str(cell).ljust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True))


def _reap_orphans() -> int:
    """Count the processes that outlived their worker; none may.

    Those that end soon get the time; the others are killed and counted.
    """
    ends_s = time.monotonic() + ORPHANS_DEADLINE_S
    while (left := _orphans()) and time.monotonic() < ends_s:
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return len(left)


def _orphans() -> list[int]:
    """Reap dead children and return the living.

    Two that `multiprocessing` keeps for the next plan are left out.
    """
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if b"from multiprocessing." not in Path(f"/proc/{pid}/cmdline").read_bytes()]


if __name__ == "__main__":
    sys.exit(main())
