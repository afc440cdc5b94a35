"""Read where nothing is."""

import ctypes


def handler(event, context):
    if event == "behave":
        return "ok"
    ctypes.string_at(0)
