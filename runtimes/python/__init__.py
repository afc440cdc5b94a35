"""The Python runtime: the trusted part of the process that holds a user's function.

Knows: `runtimes/PROTOCOL.md` and the standard library. Does not know: who started it, jobs, Redis, HTTP, any wall.

Loaded once by the launcher under the name `sandlot_runtime`, before it forks; nothing happens until `serve` is called.
"""

from .runner import rehearse, serve

__all__ = ["rehearse", "serve"]
