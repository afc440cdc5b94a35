"""Make the files that a restricted sandbox reads reachable for its uid, and nothing else.

A folder on the way may be closed to others, such as a home of mode 0700. Where the zygote may
mount, it covers that folder in its own mount namespace, by one that holds nothing but those files;
a bundle in a closed folder it copies to another place. Nothing on the host changes its mode.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Final

from .. import ownership, syscalls

PREFIX: Final = "sandlot-bundles-"


# Process: zygote, once, in the mount namespace that tmpdir.open_tmpdirs made. open_tree(2) with
# OPEN_TREE_CLONE and move_mount(2) need CAP_SYS_ADMIN in that namespace's user namespace. The trees
# are taken before the cover is mounted, since the paths lead nowhere afterwards. O_PATH keeps the
# covered folder itself reachable: a descriptor refers to its mount, whatever is mounted on top.
def expose(paths: list[str]) -> dict[str, int]:
    """Cover each closed folder on the way to these paths by one that holds nothing but them.

    Covers nothing where others can reach all paths already, or where the zygote may not mount;
    `restricted_init.check_support` then refuses the level if a path cannot be reached.

    Returns:
        The covered folders, each with a descriptor of the folder below its cover.
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


# Process: zygote. path_resolution(7): each folder on the way needs the search permission (x) for
# others, the file itself the read permission.
def is_open_to_others(path: str) -> bool:
    """Return whether a uid that owns nothing can read `path`."""
    parts = os.path.realpath(path).split("/")[1:]
    for count in range(len(parts)):
        if not os.stat("/" + "/".join(parts[:count])).st_mode & 0o001:
            return False
    return bool(os.stat(path).st_mode & 0o004)


# Process: zygote.
def _first_closed(path: str) -> str:
    """Return the first folder on the way that others may not enter, or ""."""
    parts = os.path.realpath(path).split("/")[1:]
    for count in range(1, len(parts)):
        folder = "/" + "/".join(parts[:count])
        if not os.stat(folder).st_mode & 0o001:
            return folder
    return ""


# Process: zygote, all methods.
class BundleCopies:
    """Copies of those bundles that lie in closed folders."""

    def __init__(self) -> None:
        ownership.remove_stale_folders(tempfile.gettempdir(), PREFIX)
        self._folder = ""
        self._copies: dict[str, str] = {}

    # A path below /proc/self/fd resolves to the open folder itself (proc(5)), not to its cover.
    def path(self, bundle: str, covered: dict[str, int]) -> str:
        """Return the bundle's own path, or that of a copy if sandboxes could not read the bundle.

        A copy is made once and stays valid: a bundle's folder is named by its digest and never
        changes.
        """
        source = bundle
        for obstacle, fd in covered.items():
            if bundle.startswith(obstacle + "/"):
                source = f"/proc/self/fd/{fd}{bundle.removeprefix(obstacle)}"
        if source == bundle and is_open_to_others(bundle):
            return bundle
        if bundle not in self._copies:
            if not self._folder:
                self._folder = tempfile.mkdtemp(prefix=f"{PREFIX}{ownership.tag()}-")
                # Mode 0711: others pass through, and find only the names they know.
                os.chmod(self._folder, 0o711)  # noqa: S103
            copy = tempfile.mkdtemp(dir=self._folder)
            shutil.copytree(source, copy, dirs_exist_ok=True, symlinks=True)
            os.chmod(copy, 0o755)  # noqa: S103
            self._copies[bundle] = copy
        return self._copies[bundle]

    def close(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder)
