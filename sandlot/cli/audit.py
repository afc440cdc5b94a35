"""`sandlot audit`: judge an audit log.

Knows: how the answer reads. Does not know: what makes a chain whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sandlot.audit_log import verify
from sandlot.cli.access import data_dir
from sandlot.errors import CallerError
from sandlot.settings import load_settings


def print_judgement(files: Sequence[Path]) -> None:
    """
    Raises:
        CallerError: the chain is broken, or there is no log.
    """
    if not files:
        settings = load_settings()
        log = settings.model_copy(update={"data": data_dir(settings).path}).audit_file
        if log is None:
            raise CallerError("SANDLOT_AUDIT is off: there is no audit log to verify; name a file")
        files = [log]
    tip = verify(files)
    print(f"{tip.n} records, none changed, removed or put in; the last has the hash {tip.hash}")
