"""The baseline: FastAPI returning the JSON itself. No queue, nothing durable, no sandbox."""

from typing import Any

from fastapi import Body, FastAPI

import work

app = FastAPI()


@app.post("/hello")
async def hello() -> dict[str, str]:
    return work.hello()


@app.post("/echo")
async def echo(event: Any = Body()) -> Any:
    return work.echo(event)


@app.post("/cpu")
async def cpu() -> dict[str, bool]:
    return work.cpu()
