"""The function that attacks: runs one attempt by name and says what it got.

An attempt returns what it reached, as text, or raises; nothing reached is None. It runs the same with and without a sandbox,
so that every attempt can be shown to be real. Only the standard library; `targets` are canaries on the host.
"""

import host_files
import kernel_calls
import neighbours
import resources
import sockets

MODULES = (host_files, kernel_calls, neighbours, resources, sockets)


def attempts():
    return {name: value for module in MODULES for name, value in vars(module).items() if name.startswith("try_")}


def handler(event, context):
    try:
        got = attempts()[event["attempt"]](event["targets"])
    except MemoryError:
        return {"got": None, "why": "MemoryError"}
    except (OSError, ValueError, RuntimeError, AttributeError, ImportError) as error:
        return {"got": None, "why": f"{type(error).__name__}: {error}"}
    return {"got": got, "why": ""}
