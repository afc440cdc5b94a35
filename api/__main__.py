"""`python -m api`: read the settings, open the socket, serve the API.

Exits with 0 after a stop by signal, and with 2 and a one-line message if it cannot start.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import uvloop

from api.app import open_api
from api.metrics import SiblingMetrics
from api.server.server import Server, listen, url_of
from api.server.supervisor import CANNOT_START, Supervisor
from sandlot.errors import InvalidSettings, OperatorError, QueueUnavailable
from sandlot.gc_tuning import tune_gc
from sandlot.log_format import configure_logging
from sandlot.offload import shorten_switch_interval
from sandlot.settings import Settings, is_loopback, load_settings
from sandlot.transport_security import require_safe_listener

_log = logging.getLogger("sandlot.api")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the API until it is stopped, and return the exit status."""
    options = _parse(arguments)
    try:
        settings = load_settings()
        configure_logging(settings.log_format, settings.log_level)
        shorten_switch_interval()
        require_safe_listener(settings)
        if options.listen_fd is not None:
            with socket.socket(fileno=options.listen_fd) as listening:
                uvloop.run(
                    serve(
                        settings,
                        listening,
                        options.alive_fd,
                        ready_fd=options.ready_fd,
                        siblings=options.siblings,
                        number=options.number,
                    )
                )
            return 0
        with listen(settings) as listening:
            if settings.api_processes == 1:
                uvloop.run(serve(settings, listening, None))
            else:
                uvloop.run(serve_all(settings, listening, options.installed))
    except (OperatorError, QueueUnavailable) as error:
        print(f"sandlot api: {error.message}", file=sys.stderr)
        return CANNOT_START
    return 0


async def serve(
    settings: Settings,
    listening: socket.socket,
    alive_fd: int | None,
    *,
    ready_fd: int | None = None,
    siblings: Path | None = None,
    number: str = "",
) -> None:
    """Serve until a signal, or until the pipe `alive_fd` ends because the parent process has ended.

    Args:
        ready_fd: a pipe on which to write a byte when this process serves.
        siblings: the folder in which processes that share the socket find each other.
        number: this process's name in that folder.

    Raises:
        OperatorError, QueueUnavailable: the API cannot start.
    """
    async with open_api(settings) as api:
        if not is_loopback(settings.host) and not await api.keys.list():
            raise InvalidSettings(
                f"listening on {settings.host} without any API key would open the API to the network; "
                "set SANDLOT_KEY, or listen on 127.0.0.1"
            )
        tune_gc()
        url = url_of(listening, tls=settings.tls_cert is not None)
        _log.info("listening", extra={"url": url, "version": version("sandlot")})
        api.metrics.siblings = SiblingMetrics(siblings, number, api.metrics.own_families)
        async with api.metrics.siblings.open():
            if ready_fd is not None:
                os.write(ready_fd, b"1")
                os.close(ready_fd)
            await Server(api, settings, alive_fd).serve(sockets=[listening])
    _log.info("stopped")


async def serve_all(settings: Settings, listening: socket.socket, installed: Path | None) -> None:
    """Supervise several processes that serve the same socket."""
    await Supervisor(settings, listening, installed).run()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m api", description="Serve the Sandlot API, as configured by SANDLOT_… variables."
    )
    parser.add_argument("--listen-fd", type=int, help=argparse.SUPPRESS)  # passed by Supervisor to its children
    parser.add_argument("--alive-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    # Named --peers because a supervisor of an older version passes it at a renewal.
    parser.add_argument("--peers", dest="siblings", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--installed", type=Path, help=argparse.SUPPRESS)  # passed by `sandlot api`: its own path
    parser.add_argument("--number", default="", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
