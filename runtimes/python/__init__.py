"""The Python runtime: the trusted part of the process that holds a user's function.

The launcher loads this package once, before it forks, under the name `sandlot_runtime`. Nothing
happens until `serve` is called. It imports the standard library only and implements the runtime's
side of `runtimes/PROTOCOL.md`.
"""

from .runner import serve, warm_up

__all__ = ["serve", "warm_up"]
