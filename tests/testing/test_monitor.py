"""TestClient: an app under test leaves the port of its monitor to the service."""

from __future__ import annotations

import socket
from typing import Any

from support.ports import free_port
from tidings import App
from tidings.testing import TestClient


async def test_the_app_under_test_does_not_listen_on_the_port_of_its_monitor() -> None:
    port = free_port()
    app = App("tested", monitor=port)

    @app.listen("tested")
    async def handler(msg: Any) -> dict[str, int]:
        return {"n": 1}

    with socket.create_server(("127.0.0.1", port)):
        async with TestClient(app) as client:
            assert await client.request("tested", {}) == {"n": 1}
    assert app._launch.monitor is not None  # only for the time of the test
