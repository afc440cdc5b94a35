"""`python -m api`: one API process, from the environment to the socket.

Exits with 0 after a stop by signal, with 2 and one line when it cannot start.
"""

from __future__ import annotations

import gc
import ipaddress
import logging
import socket
import sys

import uvloop

from api.main import open_api
from api.server import Server, listen, url_of
from sandlot.errors import InvalidSettings, OperatorError, QueueUnavailable
from sandlot.logs import configure_logging
from sandlot.settings import Settings, load_settings

_log = logging.getLogger("sandlot.api")


def main() -> int:
    try:
        settings = load_settings()
        configure_logging(settings.log_format, settings.log_level)
        with listen(settings) as listening:
            uvloop.run(serve(settings, listening))
    except (OperatorError, QueueUnavailable) as error:
        print(f"sandlot api: {error.message}", file=sys.stderr)
        return 2
    return 0


async def serve(settings: Settings, listening: socket.socket) -> None:
    """Serve until a signal says stop.

    Raises:
        OperatorError, QueueUnavailable: it cannot start.
    """
    async with open_api(settings) as api:
        if not _is_loopback(settings.host) and not await api.keys.list():
            raise InvalidSettings(
                f"listening on {settings.host} without a single API key would open this to the network; set SANDLOT_KEY, or listen on 127.0.0.1"
            )
        # What is alive now stays; the collector need not look at it again.
        gc.collect()
        gc.freeze()
        _log.info("listening", extra={"url": url_of(listening)})
        await Server(api, settings).serve(sockets=[listening])
    _log.info("stopped")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
