"""Network policy: the hosts and addresses that functions and callbacks may reach.

The text of a host is checked at deploy. The addresses that a name resolves to are checked by the
worker's proxy, for every connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[IpAddress]]]

HOSTS_LIMIT: Final = 64
PLAIN_PORTS: Final = frozenset({80, 443})
"""Ports of an entry that names none."""
_NAME_LIMIT: Final = 253
"""Characters of a host name (RFC 1035)."""

_ENTRY: Final = re.compile(r"^(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?$")
_LABEL: Final = re.compile(r"^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$")

# Azure's wire server: public by its number, but internal, and it hands out credentials to every
# process on the machine.
_INTERNAL: Final = frozenset({ipaddress.ip_address("168.63.129.16")})
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def check_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """Return the hosts in lower case, sorted and without duplicates.

    A host is `example.com`, `example.com:8443` or `*.example.com`.

    Raises:
        ValueError: a host is malformed or can only be internal, or there are too many.
    """
    checked = tuple(sorted({_check_host(host) for host in hosts}))
    if len(checked) > HOSTS_LIMIT:
        raise ValueError(f"{len(checked)} hosts; at most {HOSTS_LIMIT} are allowed")
    return checked


def _check_host(text: str) -> str:
    written = text.lower()
    found = _ENTRY.match(written)
    if found is None or len(written) > _NAME_LIMIT:
        raise ValueError(
            f'{text[:80]!r} is not a valid host: write a name, as in "api.example.com", with a port if it is neither 80 nor 443, and no scheme or path'
        )
    if found["port"] is not None and not 1 <= int(found["port"]) <= 65_535:
        raise ValueError(f"{text[:80]!r} has an invalid port: {found['port']} is not between 1 and 65535")
    name = found["name"]
    address = _parse_address(name)
    if address is None:
        _check_name(text, name)
    elif not address.is_global:
        raise ValueError(f"{text[:80]!r} is not on the public internet; functions cannot reach internal addresses")
    return written


def _parse_address(name: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def _check_name(text: str, name: str) -> None:
    labels = name.removeprefix("*.").split(".")
    if not all(_LABEL.match(label) for label in labels):
        hint = "" if name.isascii() else "; write an international name in its xn-- form"
        raise ValueError(
            f'{text[:80]!r} is not a valid host: write a name, as in "api.example.com" or "*.example.com"{hint}'
        )
    if len(labels) < 2 or labels[-1].isdigit():
        raise ValueError(f'{text[:80]!r} is too broad or internal: write at least two labels, as in "example.com"')


@dataclass(frozen=True, slots=True)
class AllowList:
    """Hosts as a manifest names them.

    An entry is `example.com` (ports 80 and 443), `example.com:8443`, `*.example.com` (names below
    it) or `*` (any name).
    """

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
    """Return whether an address belongs to the public internet.

    Loopback, private, link-local (where metadata services live), shared, multicast and reserved
    addresses do not. An IPv6 address that embeds an IPv4 address (mapped, 6to4, Teredo, NAT64) is
    judged by the embedded one.
    """
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
    return address.is_global and not address.is_multicast and not address.is_reserved and address not in _INTERNAL


async def resolve(host: str, port: int) -> list[IpAddress]:
    """Return every address of a host name, from the machine's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_kind, address in found]
