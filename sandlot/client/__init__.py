"""Client library for the HTTP API of `docs/api.md`.

A call returns an `InvokeResult` for whatever the function did. Faults of the caller and of the
platform are raised as the exception class that the API raised (`sandlot.errors`), found by its
`code`.
"""

from sandlot.client.client import Client
from sandlot.client.results import InvokeResult

__all__ = ["Client", "InvokeResult"]
