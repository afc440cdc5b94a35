"""functions-framework (Python): one target that serves the three functions by path.

No queue, nothing durable, no sandbox.
"""

from typing import Any

import functions_framework
from flask import Request

import work


@functions_framework.http
def serve(request: Request) -> Any:
    if request.path == "/hello":
        return work.hello()
    if request.path == "/echo":
        return work.echo(request.get_json())
    if request.path == "/cpu":
        return work.cpu()
    return {"error": "no such function"}, 404
