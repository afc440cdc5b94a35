"""Who may read metrics.

Knows: the token made for that alone. Does not know: API keys, HTTP.
"""

from __future__ import annotations

import hmac


def may_read(authorization: str, token: str) -> bool:
    """Whether this `Authorization` carries the token; never, if there is none."""
    scheme, _, given = authorization.partition(" ")
    return bool(token) and scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())
