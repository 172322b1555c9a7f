"""Fixtures for pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tidings.app import App
from tidings.server import NATSServer
from tidings.testing.client import TestClient


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NATSServer]:
    """A nats-server with JetStream for the whole test session."""
    with NATSServer(jetstream=True) as server:
        yield server


@pytest.fixture
def test_client(nats_server: NATSServer) -> Callable[[App], TestClient]:
    """A function that creates a `TestClient` for an app, on the session's server."""
    return lambda app: TestClient(app, nats_server)
