"""A function's secrets as files, for code that needs a path rather than a variable.

The folder is on the sandbox's own tmpfs, so it is in memory and gone with the sandbox. Strict
sandboxes show it as `/run/secrets` as well.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Final

FOLDER: Final = ".secrets"
FOLDER_VARIABLE: Final = "SANDLOT_SECRETS_DIR"


class SecretFiles:
    """Secret files in `folder`, which is empty if there are no secrets or no place for them."""

    def __init__(self, home: str, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets
        # A restricted sandbox without a tmpfs of its own has the home "/", which is not writable.
        self.folder = f"{home}/{FOLDER}" if secrets and home not in ("", "/") else ""

    def write(self) -> None:
        """Write each value, without a newline, to a file of the secret's name.

        Anything that was at the folder's path before is replaced.
        """
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
    """Remove anything at the path: an earlier call of the same function may have left it there."""
    if os.path.isdir(path) and not os.path.islink(path):
        os.chmod(path, 0o700)
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
