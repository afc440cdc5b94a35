"""Fail-points: what a process does to itself at a named moment, so that a test can have it die exactly there.

Knows: how `SANDLOT_FAILPOINTS` is written, and what each action does. Does not know: where in the code a moment is (`worker/middleware/failpoints.py`).
Nothing of this is reached unless the setting is given: without it there is not even a call.
"""

from __future__ import annotations

import logging
import os
import re
import signal
from dataclasses import dataclass
from typing import Final

from sandlot.errors import InvalidSettings

log = logging.getLogger(__name__)

POINTS: Final = (
    "handed",
    "claimed",
    "started",
    "ran",
    "kept",
    "storing",
    "stored",
    "settling",
    "settled",
    "stepping",
    "stepped",
    "beating",
    "beaten",
    "reaping",
    "reaped",
    "releasing",
    "released",
)
"""In a job's order: `handed` over by a submit; `claimed`, not yet given to the pool; `started` there; `ran`: the pool has its end; `kept`: the
engine has it, and nothing is recorded; `storing` and `stored`, before and after each piece of a large result; `settling`: about to be sent; `settled`: recorded, the answer not read. The others are pairs of
before and after each script, whatever it carries."""

ACTIONS: Final = ("kill", "stop", "note")
"""`kill`: SIGKILL, as from outside. `stop`: SIGSTOP, until somebody sends SIGCONT. `note`: a log line, every time."""

_FAILPOINT: Final = re.compile(r"^(?P<point>[a-z]+):(?P<action>[a-z]+)(?:@(?P<turn>[1-9][0-9]{0,8}))?$")


@dataclass(frozen=True, slots=True)
class Failpoint:
    """At the `turn`-th time the point is reached, do this; a `note` is made every time."""

    point: str
    action: str
    turn: int = 1


class Failpoints:
    """The failpoints of one process, and how often each point has been reached."""

    def __init__(self, failpoints: tuple[Failpoint, ...]) -> None:
        self._failpoints: dict[str, list[Failpoint]] = {}
        for failpoint in failpoints:
            self._failpoints.setdefault(failpoint.point, []).append(failpoint)
        self._reached: dict[str, int] = {}

    @classmethod
    def parse(cls, text: str) -> Failpoints | None:
        """`claimed:kill`, `claimed:note,settling:kill@3`; nothing for an empty text.

        Raises:
            InvalidSettings: it names the part that cannot be read, and what may stand there.
        """
        if not text:
            return None
        return cls(tuple(_parse_failpoint(part.strip()) for part in text.split(",")))

    def reach(self, point: str, job_id: str = "", attempt: int = 0) -> None:
        """The moment is now."""
        failpoints = self._failpoints.get(point)
        if failpoints is None:
            return
        turn = self._reached[point] = self._reached.get(point, 0) + 1
        for failpoint in failpoints:
            if failpoint.action == "note":
                log.info("fail-point", extra={"point": point, "job_id": job_id, "attempt": attempt})
            elif failpoint.turn == turn:
                os.kill(os.getpid(), signal.SIGKILL if failpoint.action == "kill" else signal.SIGSTOP)


def _parse_failpoint(text: str) -> Failpoint:
    match = _FAILPOINT.match(text)
    if match is None or match["point"] not in POINTS or match["action"] not in ACTIONS:
        raise InvalidSettings(
            f"SANDLOT_FAILPOINTS={text!r}: write point:action or point:action@turn, with one of the points {', '.join(POINTS)}"
            f" and one of the actions {', '.join(ACTIONS)}"
        )
    return Failpoint(match["point"], match["action"], int(match["turn"] or 1))
