"""A sandbox without namespaces: one process group under another uid, Landlock, a stricter filter. For hosts that refuse namespaces.

Knows: what must hold when there is no private view of the machine. Does not know: mounts, namespaces.
The kill is complete because nobody can leave the process group: setsid and setpgid are refused by the filter.
"""

from __future__ import annotations

import os
import signal

from .plan import Limits, Plan


def run(plan: Plan, bounds: Limits, slot: int, fds: tuple[int, int, int, int], program: bytes) -> None:
    raise PermissionError("the restricted level is not available")


def kill_group(pid: int) -> None:
    """Everything in the group led by `pid`, which must be a child of ours not yet reaped."""
    os.killpg(pid, signal.SIGKILL)
