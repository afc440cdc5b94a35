"""Wait for what never comes."""

import asyncio


def handler(event, context):
    if event == "behave":
        return "ok"
    asyncio.run(asyncio.Event().wait())
