"""Failpoints: places in the worker where a test can make the process kill or stop itself.

This module parses `SANDLOT_FAILPOINTS` and performs the actions; `worker/middleware/failpoints.py`
puts the points into the code. Unless the setting is given, none of it is installed, so it costs not
even a call.
"""

from __future__ import annotations

import logging
import os
import re
import signal
from dataclasses import dataclass
from typing import Final

from sandlot.errors import InvalidSettings

_log = logging.getLogger(__name__)

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
"""Points in the order of a job's life.

`handed`: a submit handed the job over. `claimed`: the job is claimed and not yet given to the pool.
`started`: the pool has it. `ran`: the pool has its outcome. `kept`: the engine has the outcome, and
nothing is recorded. `storing` and `stored`: before and after each chunk of a large result.
`settling`: the settlement is about to be sent. `settled`: it is recorded, and the reply has not
been read. The rest are pairs of before and after each script, whatever it carries.
"""

ACTIONS: Final = ("kill", "stop", "note")
"""Effects of a failpoint.

`kill` sends SIGKILL to this process, as from outside. `stop` sends SIGSTOP, which lasts until
another process sends SIGCONT. `note` writes a log line.
"""

_PATTERN: Final = re.compile(r"^(?P<point>[a-z]+):(?P<action>[a-z]+)(?:@(?P<turn>[1-9][0-9]{0,8}))?$")


@dataclass(frozen=True, slots=True)
class Failpoint:
    """Action for the `turn`-th time that its point is reached. A `note` is written every time."""

    point: str
    action: str
    turn: int = 1


class Failpoints:
    """Failpoints of one process, and a count of how often each point has been reached."""

    def __init__(self, failpoints: tuple[Failpoint, ...]) -> None:
        self._failpoints: dict[str, list[Failpoint]] = {}
        for failpoint in failpoints:
            self._failpoints.setdefault(failpoint.point, []).append(failpoint)
        self._reached: dict[str, int] = {}

    @classmethod
    def parse(cls, text: str) -> Failpoints | None:
        """Parse text such as `claimed:kill` or `claimed:note,settling:kill@3`.

        Empty text gives None.

        Raises:
            InvalidSettings: a part cannot be parsed; the message names it and what is allowed.
        """
        if not text:
            return None
        return cls(tuple(_parse_failpoint(part.strip()) for part in text.split(",")))

    def reach(self, point: str, job_id: str = "", attempt: int = 0) -> None:
        """Perform the actions that are set for this point, if it is their turn."""
        failpoints = self._failpoints.get(point)
        if failpoints is None:
            return
        turn = self._reached[point] = self._reached.get(point, 0) + 1
        for failpoint in failpoints:
            if failpoint.action == "note":
                _log.info("failpoint", extra={"point": point, "job_id": job_id, "attempt": attempt})
            elif failpoint.turn == turn:
                os.kill(os.getpid(), signal.SIGKILL if failpoint.action == "kill" else signal.SIGSTOP)


def _parse_failpoint(text: str) -> Failpoint:
    match = _PATTERN.match(text)
    if match is None or match["point"] not in POINTS or match["action"] not in ACTIONS:
        raise InvalidSettings(
            f"SANDLOT_FAILPOINTS={text!r}: write point:action or point:action@turn. The points are {', '.join(POINTS)};"
            f" the actions are {', '.join(ACTIONS)}"
        )
    return Failpoint(match["point"], match["action"], int(match["turn"] or 1))
