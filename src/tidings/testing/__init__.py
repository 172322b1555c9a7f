"""Test an app against a real nats-server, with `TestClient` and fixtures for pytest.

    async def test_an_order_is_billed(test_client):
        async with test_client(app) as client:
            await client.publish("orders.created", {"id": 7})
            [invoice] = await client.wait_for("invoices.created")
            assert invoice.data["order"] == 7

pytest finds two fixtures automatically. `nats_server` is a server with JetStream for the whole test
session. `test_client` creates clients for that server.
"""

import contextlib

from tidings.server import NATSCluster, NATSServer
from tidings.testing.client import SyncTestClient, TestClient
from tidings.testing.consumed import NotAckedError
from tidings.testing.jobs import JobFailedError
from tidings.testing.record import NotSeenError

__all__ = [
    "JobFailedError",
    "NATSCluster",
    "NATSServer",
    "NotAckedError",
    "NotSeenError",
    "SyncTestClient",
    "TestClient",
]

with contextlib.suppress(ImportError):  # the fixtures need pytest
    from tidings.testing.plugin import nats_server as nats_server
    from tidings.testing.plugin import test_client as test_client
