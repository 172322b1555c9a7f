"""What the tests of the transport share: servers with a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.certificates import Certificates, make_certificates
from tidings.server import NATSServer


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


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate, its key and its authority."""
    return make_certificates(tmp_path_factory.mktemp("certificates"), "any")
