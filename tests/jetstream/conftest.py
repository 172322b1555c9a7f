"""What the tests of JetStream share: servers with JetStream, and apps on the session's server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tidings import App
from tidings.jetstream import Stream
from tidings.server import NATSServer

_numbers = itertools.count(1)


@pytest.fixture
def dead() -> Stream:
    """The same, for dead letters."""
    name = f"DEAD{next(_numbers)}"
    return Stream(name, subjects=[f"{name}.>"], storage="memory")


@pytest.fixture
def server() -> Iterator[NATSServer]:
    """A server of the test's own, to kill and restart."""
    with NATSServer(jetstream=True) as own:
        yield own


@pytest.fixture
def make_app(nats_server: NATSServer) -> Callable[..., App]:
    """Makes apps on the session's server."""

    def make(name: str = "app", **options: Any) -> App:
        return App(name, servers=nats_server.url, **options)

    return make
