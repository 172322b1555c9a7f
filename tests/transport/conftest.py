"""What the tests of the transport share: servers of their own, and apps that notice quickly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tidings import App
from tidings.server import NATSServer

QUICK = {"connect_timeout": 1.0, "reconnect_time_wait": 0.1, "drain_timeout": 3.0}


@pytest.fixture
def server() -> Iterator[NATSServer]:
    with NATSServer() as own:
        yield own


@pytest.fixture
def make_app() -> Callable[..., App]:
    """Makes apps; `servers` is a URL, several, or anything with a `url`."""

    def make(servers: Any, name: str = "app", **options: Any) -> App:
        return App(name, servers=getattr(servers, "url", servers), **{**QUICK, **options})

    return make


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Callable[[str], NATSServer]]:
    """Starts servers with a configuration."""
    servers: list[NATSServer] = []

    def start(text: str) -> NATSServer:
        path = tmp_path / "server.conf"
        path.write_text(text)
        server = NATSServer(config=path)
        server.start()
        servers.append(server)
        return server

    yield start
    for each in servers:
        each.stop()
