"""Options that several commands have, written once so that they read the same everywhere.

Knows: their spelling and their help. Does not know: who takes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="Where the API is. By default: what `sandlot up` runs here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder for keys, logs and data (default: .sandlot).")
]
Event = Annotated[
    str | None, typer.Argument(help="The event: JSON, @FILE to read it from a file, - to read it from stdin.")
]
EventSource = Annotated[
    str | None, typer.Option("--event", metavar="FILE", help="Read the event from this file; - is stdin.")
]
IfMatch = Annotated[
    str,
    typer.Option(
        metavar="REVISION", help="Only if nobody has changed it since: the revision that sandlot functions NAME shows."
    ),
]
