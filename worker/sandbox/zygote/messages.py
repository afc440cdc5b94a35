"""One message per packet between worker and zygote, and between zygote and PID 1: a JSON object, sometimes with descriptors.

Knows: how a packet is packed. Does not know: what any message means.
Only trusted processes hold these sockets: PID 2 closes its copy before any code of a user runs.
"""

from __future__ import annotations

import array
import json
import socket
from typing import Any, Final

LONGEST: Final = 65536
MOST_DESCRIPTORS: Final = 8

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def send(sock: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    """Send one packet; the descriptors are duplicated by the kernel and still the caller's to close."""
    data = encode(message)
    if not descriptors:
        sock.send(data)
        return
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next packet and its descriptors (close-on-exec, the caller's to close); None when the other side is gone."""
    space = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
    data, control, _flags, _address = sock.recvmsg(LONGEST, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, body in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(body[: len(body) - len(body) % descriptors.itemsize])
    if not data:
        return None
    message: Message = json.loads(data)
    return message, list(descriptors)
