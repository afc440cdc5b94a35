"""Which hosts a manifest may name for its function to reach.

Knows: how a host is written. Does not know: what a name resolves to; the worker's proxy judges every address when it connects.
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

HOSTS_LIMIT: Final = 64
_NAME_LIMIT: Final = 253
"""Characters of a name, RFC 1035."""

_ENTRY: Final = re.compile(r"^(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?$")
_LABEL: Final = re.compile(r"^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$")


def check_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """The hosts in lower case, in order, each once: `example.com`, `example.com:8443`, `*.example.com`.

    Raises:
        ValueError: one is no host, or can only be an internal one, or there are too many.
    """
    checked = tuple(sorted({_check(host) for host in hosts}))
    if len(checked) > HOSTS_LIMIT:
        raise ValueError(f"{len(checked)} hosts; at most {HOSTS_LIMIT} are allowed")
    return checked


def _check(text: str) -> str:
    written = text.lower()
    found = _ENTRY.match(written)
    if found is None or len(written) > _NAME_LIMIT:
        raise ValueError(
            f'{text[:80]!r} is no host: write a name, as in "api.example.com", with a port if it is neither 80 nor 443, and no scheme or path'
        )
    if found["port"] is not None and not 1 <= int(found["port"]) <= 65_535:
        raise ValueError(f"{text[:80]!r} has no port: {found['port']} is not between 1 and 65535")
    name = found["name"]
    address = _address(name)
    if address is None:
        _check_name(text, name)
    elif not address.is_global:
        raise ValueError(f"{text[:80]!r} is not on the open internet; functions reach no internal address")
    return written


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def _check_name(text: str, name: str) -> None:
    labels = name.removeprefix("*.").split(".")
    if not all(_LABEL.match(label) for label in labels):
        hint = "" if name.isascii() else "; write an international name in its xn-- form"
        raise ValueError(f'{text[:80]!r} is no host: write a name, as in "api.example.com" or "*.example.com"{hint}')
    if len(labels) < 2 or labels[-1].isdigit():
        raise ValueError(f"{text[:80]!r} is too wide or internal: write at least a domain and what it is below")


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
