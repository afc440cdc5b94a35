"""An `async def` handler: its steps wait concurrently, so all take as long as the longest.

curl http://127.0.0.1:8000/v1/functions/side-by-side/invoke \
    -d '{"tea": 0.3, "toast": 0.2, "eggs": 0.4}'
"""
# /// script
# [tool.sandlot]
# visibility = "public"
# ///

import asyncio
import time


async def handler(event, context):
    steps = event or {"tea": 0.3, "toast": 0.2, "eggs": 0.4}
    started = time.perf_counter()
    done = []
    await asyncio.gather(*(step(name, seconds, done) for name, seconds in steps.items()))
    return {
        "finished_in_order": done,
        "waiting_s": round(sum(steps.values()), 3),
        "took_s": round(time.perf_counter() - started, 3),
    }


async def step(name, seconds, done):
    await asyncio.sleep(seconds)
    print(f"{name} is ready")
    done.append(name)
