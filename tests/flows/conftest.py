"""A service and its requester, each with a connection of its own."""

from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.client import Client

from support.waits import PATIENCE
from tidings import App
from tidings.server import NATSServer


@pytest.fixture
def service(nats_server: NATSServer) -> App:
    return App("rows", servers=nats_server.url, drain_timeout=PATIENCE)


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("asker", servers=nats_server.url, request_timeout=PATIENCE)


@pytest.fixture
async def foreign(nats_server: NATSServer) -> AsyncIterator[Client]:
    """Another client, so that what is on the wire is seen as others see it."""
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()
