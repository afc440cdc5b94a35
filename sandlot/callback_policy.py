"""Which URLs callers may have told of their jobs' ends, and the secrets that sign what is told.

Knows: how such a URL is written, the operator's list of hosts, Standard Webhooks' form of a secret (standardwebhooks.com).
Does not know: what is sent, what a name resolves to: the worker judges every address when it connects.
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
ANY_HOST: Final = "*"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what stands before one
"""Of a symmetric secret; 24 to 64 bytes follow in base64."""
_PORTS: Final = {"http": 80, "https": 443}


def callback_hosts(settings: Settings) -> AllowList:
    """Where callbacks may go; without entries, nowhere.

    Raises:
        InvalidSettings: an entry is no host.
    """
    entries = [entry.strip() for entry in settings.callback_hosts.split(",") if entry.strip()]
    named = [entry for entry in entries if entry != ANY_HOST]
    try:
        return AllowList((*check_hosts(named), *([ANY_HOST] if ANY_HOST in entries else [])))
    except ValueError as error:
        raise InvalidSettings(f"SANDLOT_CALLBACK_HOSTS={settings.callback_hosts!r}: {error}") from error


def callback_secrets(settings: Settings) -> tuple[bytes, ...]:
    """The secrets that sign callbacks, at least one: a receiver accepts any, so that it can be changed.

    Raises:
        InvalidSettings: there is none, or one is not of the form; the message does not have it.
    """
    text = settings.callback_secret.get_secret_value()
    if not text and settings.callback_secret_file is not None:
        text = read_secret_file(settings.callback_secret_file, "callback secret", "SANDLOT_CALLBACK_SECRET")
    if not text.split():
        raise InvalidSettings(
            "SANDLOT_CALLBACK_HOSTS allows callbacks, but there is no SANDLOT_CALLBACK_SECRET to sign them with. "
            'Make one with: echo "whsec_$(openssl rand -base64 32)"'
        )
    return tuple(_secret(number, written) for number, written in enumerate(text.split(), start=1))


def _secret(number: int, written: str) -> bytes:
    try:
        secret = b64decode(written.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not written.startswith(SECRET_PREFIX) or not 24 <= len(secret) <= 64:
        raise InvalidSettings(
            f"secret {number} of SANDLOT_CALLBACK_SECRET is not {SECRET_PREFIX} and 24 to 64 bytes in base64. "
            'Make one with: echo "whsec_$(openssl rand -base64 32)"'
        )
    return secret


def check_callback_url(text: str, hosts: AllowList) -> str:
    """The URL, if a callback may go there as far as can be told from its text.

    Raises:
        CallbackRefused: it may not, or is no such URL.
    """
    if not hosts.entries:
        raise CallbackRefused(
            "this server makes no callbacks; ask for the job at its Location, or have its operator set SANDLOT_CALLBACK_HOSTS"
        )
    parts, port = _read(text)
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
        raise CallbackRefused(f"{host} is not on the open internet; no callback goes to an internal address")
    return text


def _read(text: str) -> tuple[SplitResult, int]:
    shown = text[:80]
    if len(text) > URL_LIMIT:
        raise CallbackRefused(f"the callback URL has {len(text)} characters; at most {URL_LIMIT} are allowed")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise CallbackRefused("the callback URL has characters that a URL does not have; percent-encode them")
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise CallbackRefused(f"{shown} is no URL: {error}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise CallbackRefused(f"{shown} is no http or https URL, such as https://hooks.example.com/done")
    if parts.username is not None or parts.password is not None:
        raise CallbackRefused(
            "the callback URL has a user or password; callbacks are signed, check the signature instead"
        )
    if parts.fragment:
        raise CallbackRefused(f"the callback URL has a fragment (#{parts.fragment[:40]}), which is never sent")
    return parts, port
