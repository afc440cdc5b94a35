"""Make what a restricted sandbox must read reachable for its uid, without opening anything else.

Knows: folders that others may not enter (a home of mode 0700, for one). Does not know: what is in them.
Where we may mount, a bind in our own mount namespace; where not, a copy of the bundle outside. Nothing on the host changes its mode.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Final

from .. import ownership, syscalls

PREFIX: Final = "sandlot-bundles-"


def expose(paths: list[str]) -> dict[str, int]:
    """In our own mount namespace, lay an empty folder over each closed one, with nothing in it but these paths.

    Does nothing where others can get to all paths already, or where we may not mount; `restricted.require` has the last word.

    Returns:
        The folders that were covered, each with a descriptor through which what lies below the cover can still be reached.
    """
    covered: dict[str, int] = {}
    closed: dict[str, list[str]] = {}
    for path in paths:
        if obstacle := _first_closed(path):
            closed.setdefault(obstacle, []).append(os.path.realpath(path))
    for obstacle, wanted in closed.items():
        below = os.open(obstacle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            trees = [(path, os.path.isdir(path), syscalls.open_tree(path, syscalls.AT_RECURSIVE)) for path in wanted]
            syscalls.mount(
                "way", obstacle, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755,size=1m,nr_inodes=1024"
            )
        except PermissionError:
            os.close(below)
            return covered
        covered[obstacle] = below
        for path, is_folder, tree in sorted(trees):
            if is_folder:
                os.makedirs(path, mode=0o755, exist_ok=True)
            elif not os.path.exists(path):
                os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
            syscalls.move_mount(tree, path)
            os.close(tree)
    return covered


def is_open_to_others(path: str) -> bool:
    """Return whether a uid that owns nothing can read `path`.

    Every folder on the way must be executable for others, and the path itself readable for them
    (path_resolution(7)).
    """
    parts = os.path.realpath(path).split("/")[1:]
    for count in range(len(parts)):
        if not os.stat("/" + "/".join(parts[:count])).st_mode & 0o001:
            return False
    return bool(os.stat(path).st_mode & 0o004)


def _first_closed(path: str) -> str:
    """The first folder on the way that others may not enter; "" if there is none."""
    parts = os.path.realpath(path).split("/")[1:]
    for count in range(1, len(parts)):
        folder = "/" + "/".join(parts[:count])
        if not os.stat(folder).st_mode & 0o001:
            return folder
    return ""


class BundleCopies:
    """Bundles where sandboxes can read them; copies only of those that lie in closed folders."""

    def __init__(self) -> None:
        ownership.remove_stale_folders(tempfile.gettempdir(), PREFIX)
        self._folder = ""
        self._copies: dict[str, str] = {}

    def path(self, bundle: str, covered: dict[str, int]) -> str:
        """The bundle itself, or a copy of it made once; bundles never change, their folder is named by digest."""
        source = bundle
        for obstacle, fd in covered.items():
            if bundle.startswith(obstacle + "/"):
                source = f"/proc/self/fd/{fd}{bundle.removeprefix(obstacle)}"
        if source == bundle and is_open_to_others(bundle):
            return bundle
        if bundle not in self._copies:
            if not self._folder:
                self._folder = tempfile.mkdtemp(prefix=f"{PREFIX}{ownership.tag()}-")
                os.chmod(self._folder, 0o711)  # noqa: S103 - others pass through, and see only what they know by name
            copy = tempfile.mkdtemp(dir=self._folder)
            shutil.copytree(source, copy, dirs_exist_ok=True, symlinks=True)
            os.chmod(copy, 0o755)  # noqa: S103
            self._copies[bundle] = copy
        return self._copies[bundle]

    def close(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder)
