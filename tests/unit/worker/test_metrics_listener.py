"""A worker's metrics are open to this machine alone, or to who has the token."""

from __future__ import annotations

import socket

import pytest

from sandlot.errors import InvalidSettings, PortTaken
from worker.metrics.listener import open_listener


async def test_beyond_loopback_there_must_be_a_token() -> None:
    with pytest.raises(InvalidSettings, match=r"metrics on 0\.0\.0\.0 without a token .* SANDLOT_METRICS_TOKEN"):
        async with open_listener("0.0.0.0", 0, "", list):
            pass


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"127\.0\.0\.1:{port}.*SANDLOT_METRICS_PORT"):
            async with open_listener("127.0.0.1", port, "", list):
                pass
