"""Queue no-ops through a peer's own API and print the duration: enqueue.py MODULE COUNT EVERY.

Every EVERYth job is a mark (see work.mark), from which the drain is timed.
"""

import asyncio
import importlib
import inspect
import json
import sys
import time


def main() -> None:
    module, count, every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    enqueue = importlib.import_module(module).enqueue
    started_s = time.monotonic()
    if inspect.iscoroutinefunction(enqueue):
        asyncio.run(enqueue(count, every))
    else:
        enqueue(count, every)
    print(json.dumps({"count": count, "seconds": time.monotonic() - started_s}))


if __name__ == "__main__":
    main()
