"""Names that say which process something belongs to, so that what a killed one left can be told from what is in use.

Knows: process numbers and start times (a number is given again, a number with its start time is not). Does not know: what is named.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from typing import Final

_TAG: Final = re.compile(r"-(\d+)-(\d+)(?:-\w+)?$")


def tag() -> str:
    """`<pid>-<start ticks>` of this process."""
    return f"{os.getpid()}-{_start_ticks(os.getpid())}"


def is_stale(name: str) -> bool:
    """Whether the name carries the tag of a process that no longer exists."""
    match = _TAG.search(name)
    return match is not None and _start_ticks(int(match[1])) != int(match[2])


def remove_stale_folders(parent: str, prefix: str) -> None:
    """Remove folders of ours below `parent` whose owner was killed; others' folders, and links, are left alone."""
    for name in os.listdir(parent):
        if name.startswith(prefix) and is_stale(name):
            path = f"{parent}/{name}"
            found = os.lstat(path)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)  # another worker may be removing the same


def _start_ticks(pid: int) -> int:
    """When the process started (proc(5), stat, field 22); -1 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return -1
