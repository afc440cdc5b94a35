"""Policy for callbacks: which URLs callers may name, and the secrets that sign deliveries.

Secrets have the form of Standard Webhooks (standardwebhooks.com). Only the text of a URL is checked
here; the worker checks every address that a name resolves to when it connects.
"""

from __future__ import annotations

import binascii
import ipaddress
from base64 import b64decode
from typing import Final
from urllib.parse import SplitResult, urlsplit

from sandlot.errors import CallbackRefused, InvalidSettings
from sandlot.network_policy import AllowList, check_hosts, is_public
from sandlot.settings import Settings, read_secret_file

URL_LIMIT: Final = 2048
"""Characters of a callback URL."""
ANY_HOST: Final = "*"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - a prefix, not a secret
"""Prefix of a symmetric secret; 24 to 64 bytes in base64 follow."""
_PORTS: Final = {"http": 80, "https": 443}


def callback_hosts(settings: Settings) -> AllowList:
    """Return the allow list of callback hosts; an empty one allows no callbacks.

    Raises:
        InvalidSettings: an entry is not a valid host.
    """
    entries = [entry.strip() for entry in settings.callback_hosts.split(",") if entry.strip()]
    named = [entry for entry in entries if entry != ANY_HOST]
    try:
        return AllowList((*check_hosts(named), *([ANY_HOST] if ANY_HOST in entries else [])))
    except ValueError as error:
        raise InvalidSettings(f"SANDLOT_CALLBACK_HOSTS={settings.callback_hosts!r}: {error}") from error


def callback_secrets(settings: Settings) -> tuple[bytes, ...]:
    """Return the secrets that sign callbacks, at least one.

    A receiver accepts a signature by any of them, which allows a secret to be replaced without a
    gap.

    Raises:
        InvalidSettings: there is none, or one is malformed; the message does not contain it.
    """
    text = settings.callback_secret.get_secret_value()
    if not text and settings.callback_secret_file is not None:
        text = read_secret_file(settings.callback_secret_file, "callback secret", "SANDLOT_CALLBACK_SECRET")
    if not text.split():
        raise InvalidSettings(
            "SANDLOT_CALLBACK_HOSTS allows callbacks, but SANDLOT_CALLBACK_SECRET, which signs them, is not set. "
            'Create one with: echo "whsec_$(openssl rand -base64 32)"'
        )
    return tuple(_parse_secret(number, written) for number, written in enumerate(text.split(), start=1))


def _parse_secret(number: int, written: str) -> bytes:
    try:
        secret = b64decode(written.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not written.startswith(SECRET_PREFIX) or not 24 <= len(secret) <= 64:
        raise InvalidSettings(
            f"secret {number} of SANDLOT_CALLBACK_SECRET is malformed: it must be {SECRET_PREFIX} followed by 24 to 64 bytes in base64. "
            'Create one with: echo "whsec_$(openssl rand -base64 32)"'
        )
    return secret


def check_callback_url(text: str, hosts: AllowList) -> str:
    """Return the URL if the allow list permits callbacks to it, as far as its text shows.

    Raises:
        CallbackRefused: it does not, or the text is not an http or https URL.
    """
    if not hosts.entries:
        raise CallbackRefused(
            "this server makes no callbacks; poll the job at its Location, or ask the operator to set SANDLOT_CALLBACK_HOSTS"
        )
    parts, port = _split_url(text)
    host = parts.hostname or ""
    if not hosts.permits(host, port):
        raise CallbackRefused(
            f"callbacks to {host}:{port} are not allowed here; the operator allows: {', '.join(hosts.entries)}"
        )
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return text
    if not is_public(address):
        raise CallbackRefused(f"{host} is not on the public internet; callbacks to internal addresses are not allowed")
    return text


def _split_url(text: str) -> tuple[SplitResult, int]:
    shown = text[:80]
    if len(text) > URL_LIMIT:
        raise CallbackRefused(f"the callback URL has {len(text)} characters; at most {URL_LIMIT} are allowed")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise CallbackRefused("the callback URL has characters that are not allowed in a URL; percent-encode them")
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise CallbackRefused(f"{shown!r} is not a valid URL: {error}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise CallbackRefused(f"{shown!r} is not an http or https URL, such as https://hooks.example.com/done")
    if parts.username is not None or parts.password is not None:
        raise CallbackRefused(
            "the callback URL contains a user name or password; verify the signature of the callback instead"
        )
    if parts.fragment:
        raise CallbackRefused(f"the callback URL has a fragment (#{parts.fragment[:40]}), which would never be sent")
    return parts, port
