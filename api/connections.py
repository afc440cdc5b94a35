"""How many connections there may be: in all, and from one address.

Knows: who holds how many. Does not know: what is said on them (`api.protocol`).
"""

from __future__ import annotations

from collections import Counter

from sandlot.settings import Settings, is_loopback
from sandlot.transport_security import Network, is_in, read_proxies


class Connections:
    """The connections of this process. Proxies and this machine itself may have as many as there are: behind them are many callers."""

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.connections_limit
        self._limit_per_address = settings.connections_limit_per_address
        self._exempt: tuple[Network, ...] = read_proxies(settings)
        self._count = 0
        self._of: Counter[str] = Counter()

    def enter(self, address: str) -> str:
        """Why this connection is refused; empty if it is not. Whoever entered, refused or not, leaves."""
        self._count += 1
        self._of[address] += 1
        if self._count > self._limit:
            return f"there are {self._limit} connections to this process already"
        if self._of[address] > self._limit_per_address and not self._may_have_many(address):
            return f"there are {self._limit_per_address} connections from your address already"
        return ""

    def leave(self, address: str) -> None:
        self._count -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]

    def _may_have_many(self, address: str) -> bool:
        return not address or is_loopback(address) or is_in(address, self._exempt)
