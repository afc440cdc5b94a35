"""Every operation of the API as its documentation shows it: words, parameters, examples.

Knows: what callers read in /openapi.json and /docs. Does not know: how anything is done. A test holds this table and the routes together.
"""

from __future__ import annotations

from typing import Final

from api.operations.calls import CALLS
from api.operations.dead_letters import DEAD_LETTERS
from api.operations.form import Header, Operation, Parameter, ResponseDoc
from api.operations.functions import FUNCTIONS
from api.operations.health import HEALTH
from api.operations.jobs import JOBS
from api.operations.secrets import SECRETS
from api.operations.versions import VERSIONS

OPERATIONS: Final = (*CALLS, *JOBS, *DEAD_LETTERS, *FUNCTIONS, *VERSIONS, *SECRETS, *HEALTH)

__all__ = ["OPERATIONS", "Header", "Operation", "Parameter", "ResponseDoc"]
