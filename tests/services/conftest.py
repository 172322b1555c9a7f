"""What the tests of discovery share."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest

from support.services import Asker

_numbers = itertools.count(1)


@pytest.fixture
async def asker(nats_server: Any) -> AsyncIterator[Asker]:
    """A client of nats-py that asks services."""
    client = await nats.connect(nats_server.url)
    yield Asker(client)
    await client.close()


@pytest.fixture
def name() -> str:
    """The name of a service that no other test uses."""
    return f"service-{next(_numbers)}"
