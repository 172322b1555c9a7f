"""What the whole suite shares. The fixture `nats_server` comes from tidings' own pytest plugin."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tidings import App
from tidings.testing import NATSServer

_numbers = itertools.count(1)


@pytest.fixture
def subject() -> str:
    """A subject that no other test uses."""
    return f"test.{next(_numbers)}"


@pytest.fixture
def make_app(nats_server: NATSServer) -> Callable[..., App]:
    """Makes apps on the session's server."""

    def make(name: str = "app", **options: Any) -> App:
        return App(name, servers=nats_server.url, **options)

    return make
