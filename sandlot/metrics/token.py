"""Who may read metrics.

Knows: the token made for that alone. Does not know: API keys, HTTP.
"""

from __future__ import annotations

import hmac
import ipaddress


def may_read(authorization: str, token: str) -> bool:
    """Whether this `Authorization` carries the token; never, if there is none."""
    scheme, _, given = authorization.partition(" ")
    return bool(token) and scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
