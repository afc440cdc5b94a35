"""Send a file, folder or zip to the API as a function.

Knows: what is read from disk and which of the API's two forms carries it. Does not know: what the API does with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sandlot.client import Client
from sandlot.errors import InvalidManifest
from sandlot.functions import function_name, read_archive, read_path, write_archive
from sandlot.functions.source import folder_files


def deploy_path(
    client: Client, path: Path, *, name: str | None = None, node: Path | None = None, revision: str = ""
) -> dict[str, Any]:
    """Deploy what is at this path, after checking it here, where file and line are known; the API's answer.

    Args:
        revision: of the function as it was looked at; nothing is deployed if it is at another by now.

    Raises:
        InvalidManifest: it cannot be a function; file and line are named.
        SandlotError: what the API answered.
    """
    if not path.exists():
        raise InvalidManifest(f"{path}: there is no such file or folder")
    if path.suffix == ".zip" and path.is_file():
        archive = path.read_bytes()
        try:
            read_archive(archive, node=node)
        except InvalidManifest as error:
            raise InvalidManifest(f"{path.name}: {error.message}") from error
        return client.deploy_archive(name or function_name(path.with_suffix("")), archive, revision=revision)
    target, _, _ = read_path(path, name=name, node=node)
    if path.is_dir():
        return client.deploy_archive(target, write_archive(folder_files(path)), revision=revision)
    source = path.read_bytes().decode("utf-8-sig")
    return client.deploy(target, source=source, filename=path.name, revision=revision)
