"""The operation table: each operation of the API is written here, once.

Routing (`api/routing.py`), authorization (`api/auth.py`), audit (`api/middleware/audit.py`) and
the documentation (`api/routes/docs.py`) all read this table. The API refuses to start if a route
and its operation differ (`check_routes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from api.operations.calls import CALLS
from api.operations.dead_letters import DEAD_LETTERS
from api.operations.functions import FUNCTIONS
from api.operations.jobs import JOBS
from api.operations.operation import ANY_METHOD, Access, Header, Operation, Parameter, ResponseDoc
from api.operations.secrets import SECRETS
from api.operations.system import SYSTEM
from api.operations.versions import VERSIONS

OPERATIONS: Final = (*CALLS, *JOBS, *DEAD_LETTERS, *FUNCTIONS, *VERSIONS, *SECRETS, *SYSTEM)
"""In the order in which the documentation shows them."""

OPERATION_AT: Final[Mapping[tuple[str, str], Operation]] = MappingProxyType(
    {(method, operation.path): operation for operation in OPERATIONS for method in operation.methods}
)
"""The operation of a method and a route's path."""

__all__ = [
    "ANY_METHOD",
    "OPERATIONS",
    "OPERATION_AT",
    "Access",
    "Header",
    "Operation",
    "Parameter",
    "ResponseDoc",
]
