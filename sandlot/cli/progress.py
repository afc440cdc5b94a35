"""Wait until the dependencies of a deployed version are there.

Knows: what the API says of a version that is not active yet. Does not know: how it is shown, how dependencies are resolved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from sandlot.client import Client
from sandlot.errors import VersionFailed

LOOK_S: Final = 0.5


def wait_until_active(
    client: Client, deployed: Mapping[str, Any], say: Callable[[str], None] = lambda _step: None
) -> dict[str, Any]:
    """The deployed version's document once it is active; at once if it is. Blocks; each new step is said.

    Raises:
        VersionFailed: it never will be; the message is the resolver's.
        SandlotError: what the API answered.
    """
    document, said = dict(deployed), ""
    while document["state"] == "pending":
        time.sleep(LOOK_S)
        document = look(client, document)
        step = step_of(document)
        if step and step != said:
            said = step
            say(f"{document['name']} version {document['version']}: {step}")
    return document


def look(client: Client, document: Mapping[str, Any]) -> dict[str, Any]:
    """The same version as it is now.

    Raises:
        VersionFailed: its dependencies cannot be had; the message is the resolver's.
        SandlotError: what the API answered.
    """
    now = client.function(str(document["name"]), version=str(document["version"]))
    if now["state"] == "failed":
        still = f"; version {now['latest']} still serves" if now.get("latest") else ""
        raise VersionFailed(
            f"{now['name']} version {now['version']}: its dependencies cannot be had{still}\n{now['reason']}"
        )
    # Only what was deployed tells whether it is new.
    return {**document, **now}


def step_of(document: Mapping[str, Any]) -> str:
    """How far the dependencies of a version are; empty once they are there."""
    return f"dependencies: {document.get('progress', '')}" if document["state"] == "pending" else ""
