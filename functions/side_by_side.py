"""An `async def` handler: steps that wait do so side by side, so the whole takes as long as the longest.

curl -d '{"tea": 0.3, "toast": 0.2, "eggs": 0.4}' http://127.0.0.1:8000/v1/functions/side-by-side/invoke
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
