"""Names that carry the process they belong to, so that leftovers of a killed one can be removed.

A name ends in the owner's pid and start time: a pid is used again, a pid with its start time never.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from typing import Final

_TAG: Final = re.compile(r"-(\d+)-(\d+)(?:-\w+)?$")


# Process: worker or zygote, as all functions of this module.
def tag() -> str:
    """Return `<pid>-<start ticks>` of this process."""
    return f"{os.getpid()}-{_start_ticks(os.getpid())}"


def is_stale(name: str) -> bool:
    """Return whether the name carries the tag of a process that no longer exists."""
    match = _TAG.search(name)
    return match is not None and _start_ticks(int(match[1])) != int(match[2])


# lstat(2), not stat(2): in a shared folder such as /tmp another user may have planted a link of
# that name, and its target must not be removed.
def remove_stale_folders(parent: str, prefix: str) -> None:
    """Remove our folders below `parent` whose owner was killed.

    Folders of other users, and links, are left alone.
    """
    for name in os.listdir(parent):
        if name.startswith(prefix) and is_stale(name):
            path = f"{parent}/{name}"
            found = os.lstat(path)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)  # another worker may be removing the same


# proc(5), /proc/pid/stat: field 2, the name, stands in parentheses and may hold spaces and
# parentheses itself, so fields are counted after the last one. starttime is field 22.
def _start_ticks(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot; -1 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return -1
