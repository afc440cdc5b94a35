"""A function's secrets as files, for code that wants a path rather than a variable.

Knows: the folder, its permissions, the variable that names it. Does not know: which secrets there are.

The folder is on the sandbox's own tmpfs, in memory and gone with it; strict sandboxes show it as `/run/secrets` as well.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Final

FOLDER: Final = ".secrets"
FOLDER_VARIABLE: Final = "SANDLOT_SECRETS_DIR"


class SecretFiles:
    """`folder` is where they are once `write` has run; empty if there are none, or no place for them."""

    def __init__(self, home: str, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets
        # A restricted sandbox without a tmpfs of its own lives in "/", where nothing can be written.
        self.folder = f"{home}/{FOLDER}" if secrets and home not in ("", "/") else ""

    def write(self) -> None:
        """Each value alone, without a line's end, in a file of its name. What was there before is replaced, whatever it was."""
        if not self.folder:
            return
        _remove(self.folder)
        os.mkdir(self.folder, 0o700)
        for name, value in self._secrets.items():
            descriptor = os.open(f"{self.folder}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o400)
            with os.fdopen(descriptor, "wb") as file:
                file.write(value.encode())
        os.chmod(self.folder, 0o500)


def _remove(path: str) -> None:
    """An earlier call of the same function may have put anything there."""
    if os.path.isdir(path) and not os.path.islink(path):
        os.chmod(path, 0o700)
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
