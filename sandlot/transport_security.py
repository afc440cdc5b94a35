"""Transport security: which network connections need TLS, and which settings waive that.

A connection is allowed over the loopback device, with TLS, through a declared proxy, or by an
explicit `insecure` setting.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from sandlot.errors import InvalidSettings
from sandlot.settings import Settings, is_loopback

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NO_TLS: Final = (
    "anyone on the network path can read keys, events and results. Set up TLS (SANDLOT_TLS_CERT, SANDLOT_TLS_KEY), name the proxy that"
    " terminates TLS (SANDLOT_PROXIES=10.0.0.7), listen on 127.0.0.1, or accept the risk: --insecure (SANDLOT_INSECURE=1)"
)


def is_local(redis_url: str) -> bool:
    """Return whether no traffic to this URL of Redis leaves this machine.

    That is the case for a Unix socket and the loopback device.
    """
    parts = urlsplit(redis_url)
    return parts.scheme == "unix" or is_loopback(parts.hostname or "localhost")


def require_safe_redis(settings: Settings) -> str:
    """Return the URL of Redis, empty if none is set.

    Raises:
        InvalidSettings: it leads over a network without TLS, and no setting allows that.
    """
    url = settings.redis_url.get_secret_value()
    if settings.insecure_redis or not url or urlsplit(url).scheme == "rediss" or is_local(url):
        return url
    raise InvalidSettings(
        f"SANDLOT_REDIS_URL leads to {urlsplit(url).hostname} without TLS: anyone on the network path can read the password, events and results."
        " Use rediss://, or accept the risk on a network you trust: --insecure-redis (SANDLOT_INSECURE_REDIS=1)"
    )


def require_safe_listener(settings: Settings) -> None:
    """Check that the API may listen on its address.

    Raises:
        InvalidSettings: it would listen to a network without TLS, a declared proxy or permission;
            or only one of the certificate and its key is given.
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
    """Return the addresses of trusted proxies, whose word about the caller's address counts.

    Raises:
        InvalidSettings: an entry is neither an address nor a network.
    """
    try:
        return tuple(ipaddress.ip_network(word.strip()) for word in settings.proxies.split(",") if word.strip())
    except ValueError as error:
        raise InvalidSettings(
            f"SANDLOT_PROXIES={settings.proxies!r}: {error}; write addresses or networks, separated by commas: 10.0.0.7,192.168.1.0/24"
        ) from error


def is_in(address: str, networks: tuple[Network, ...]) -> bool:
    """Return whether an address, given as text, is in one of the networks.

    An IPv4-mapped IPv6 address counts as IPv4.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)
