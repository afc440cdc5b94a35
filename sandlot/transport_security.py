"""What is reached over a network, and what must be true before it is.

Knows: loopback, TLS, declared proxies, which setting says "I know". Does not know: sockets, who connects.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from sandlot.errors import InvalidSettings
from sandlot.settings import Settings, is_loopback

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NO_TLS: Final = (
    "anybody on the way reads keys, events and results. Give it TLS (SANDLOT_TLS_CERT, SANDLOT_TLS_KEY), say which proxy speaks TLS for it"
    " (SANDLOT_PROXIES=10.0.0.7), listen on 127.0.0.1, or say that it may be so: --insecure (SANDLOT_INSECURE=1)"
)


def is_local(redis_url: str) -> bool:
    """Whether nothing leaves this machine: a Unix socket or the loopback device."""
    parts = urlsplit(redis_url)
    return parts.scheme == "unix" or is_loopback(parts.hostname or "localhost")


def require_safe_redis(settings: Settings) -> str:
    """The URL of Redis; empty if there is none.

    Raises:
        InvalidSettings: it leads over a network without TLS, and nobody said that this may be so.
    """
    url = settings.redis_url.get_secret_value()
    if settings.insecure_redis or not url or urlsplit(url).scheme == "rediss" or is_local(url):
        return url
    raise InvalidSettings(
        f"SANDLOT_REDIS_URL leads to {urlsplit(url).hostname} without TLS: anybody on the way reads the password, events and results."
        " Use rediss://, or say that this network is your own: --insecure-redis (SANDLOT_INSECURE_REDIS=1)"
    )


def require_safe_listener(settings: Settings) -> None:
    """
    Raises:
        InvalidSettings: the API would listen to a network without TLS, a declared proxy or a word that it may; or half of TLS is given.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise InvalidSettings(
            "TLS needs both a certificate and its key: SANDLOT_TLS_CERT and SANDLOT_TLS_KEY (--tls-cert, --tls-key)"
        )
    proxies = read_proxies(settings)
    if is_loopback(settings.host) or settings.tls_cert is not None or proxies or settings.insecure:
        return
    raise InvalidSettings(f"listening on {settings.host} without TLS: {_NO_TLS}")


def read_proxies(settings: Settings) -> tuple[Network, ...]:
    """Where the proxies are that speak for callers.

    Raises:
        InvalidSettings: one is neither an address nor a network.
    """
    try:
        return tuple(ipaddress.ip_network(word.strip()) for word in settings.proxies.split(",") if word.strip())
    except ValueError as error:
        raise InvalidSettings(
            f"SANDLOT_PROXIES={settings.proxies!r}: {error}; write addresses or networks, separated by commas: 10.0.0.7,192.168.1.0/24"
        ) from error


def is_in(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether the address, in text, is in one of these; an IPv4 address that came as IPv6 is what it was."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)
