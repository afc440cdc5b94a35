"""Which hosts somebody named, and which addresses neither a function nor a callback may reach whatever their name is.

Knows: allow lists, special-purpose addresses (RFC 6890), addresses inside addresses, the machine's resolver. Does not know: connections.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[IpAddress]]]
PLAIN_PORTS: Final = frozenset({80, 443})

# Public by number, internal by use: Azure's wire server hands out credentials to whoever is on the machine.
_INTERNAL: Final = frozenset({ipaddress.ip_address("168.63.129.16")})
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class AllowList:
    """Hosts as a manifest names them: `example.com` (ports 80 and 443), `example.com:8443`, `*.example.com` (names below it), `*` (any name)."""

    entries: tuple[str, ...]

    def permits(self, host: str, port: int) -> bool:
        host = host.lower().rstrip(".")
        return any(_matches(entry, host, port) for entry in self.entries)


def _matches(entry: str, host: str, port: int) -> bool:
    wanted = urlsplit("//" + entry.lower())
    name = wanted.hostname or ""
    if port not in ({wanted.port} if wanted.port else PLAIN_PORTS):
        return False
    if name == "*":
        return True
    if name.startswith("*."):
        return host.endswith(name[1:]) and host != name[2:]
    return host == name


def is_public(address: IpAddress) -> bool:
    """Whether this is a host of the open internet: not loopback, private, link-local (where metadata lives), shared, multicast or reserved.

    An IPv4 address wrapped in an IPv6 one (mapped, 6to4, Teredo, NAT64) is judged as what it wraps.
    """
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
    return address.is_global and not address.is_multicast and not address.is_reserved and address not in _INTERNAL


async def resolve(host: str, port: int) -> list[IpAddress]:
    """Every address of the name, by the machine's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_kind, address in found]
