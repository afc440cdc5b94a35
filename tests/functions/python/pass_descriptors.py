"""Send descriptors along with the answer."""

import array
import os
import socket
import time


def handler(event, context):
    if event == "behave":
        return "ok"
    files = array.array("i", [os.open("/dev/null", os.O_RDONLY) for _ in range(50)])
    control = socket.socket(fileno=3)
    control.sendmsg([b"\x00\x00\x00\x04O\"fd\""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    time.sleep(3600)
