"""Talk to a Sandlot API from Python.

Knows: the paths, headers and problem documents of `docs/api.md`. Does not know: Redis, workers, where a key is kept.
What a function does comes back as an `InvokeResult`; what the platform or the caller got wrong is raised, as the same exception
class that the API raised (`sandlot.errors`), found by its `code`.
"""

from sandlot.client.client import Client
from sandlot.client.results import InvokeResult

__all__ = ["Client", "InvokeResult"]
