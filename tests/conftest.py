"""What the whole suite shares. The fixture `nats_server` comes from tidings' own pytest plugin."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tidings import App
from tidings.testing import NATSServer

_numbers = itertools.count(1)

# A shell's background job ignores SIGINT, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
