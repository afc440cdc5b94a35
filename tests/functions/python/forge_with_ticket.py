"""Answer by hand, with the ticket found in the runtime's own frames, then return another answer."""

import os
import sys


def handler(event, context):
    if event == "behave":
        return "ok"
    frame = sys._getframe()
    while "ticket" not in frame.f_locals:
        frame = frame.f_back
    os.write(3, b"\x00\x00\x00\x10O" + frame.f_locals["ticket"] + b'"forged"')
    return "real"
