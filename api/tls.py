"""The certificate with which the API speaks HTTPS.

Knows: files in PEM, which TLS is spoken, how a renewed certificate is taken up. Does not know: sockets.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from sandlot.errors import InvalidSettings
from sandlot.settings import Settings

_log = logging.getLogger("sandlot.api")


class Tls:
    """TLS 1.2 and 1.3."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """
        Raises:
            InvalidSettings: a file cannot be read, is not what it should be, or the two do not belong together.
        """
        self._certificate, self._key = certificate, key
        self.context = _context()
        _load(self.context, certificate, key)

    @classmethod
    def of(cls, settings: Settings) -> Tls | None:
        """None if the settings name no certificate."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return cls(settings.tls_cert, settings.tls_key)

    def renew(self) -> None:
        """Read both files again: connections from now on get what they hold. What cannot be used changes nothing."""
        try:
            # Elsewhere first: a key that does not match would leave the context with half of each.
            _load(_context(), self._certificate, self._key)
            _load(self.context, self._certificate, self._key)
        except InvalidSettings as error:
            _log.error("certificate not renewed", extra={"reason": error.message})
            return
        _log.info("certificate renewed", extra={"path": str(self._certificate)})


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # Debian's Python leaves this to OpenSSL's configuration file.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        # An empty password, or OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else error.reason or str(error)  # type: ignore[attr-defined]
        raise InvalidSettings(
            f"cannot use the certificate {certificate} with the key {key}: {reason} (SANDLOT_TLS_CERT, SANDLOT_TLS_KEY)"
        ) from error
