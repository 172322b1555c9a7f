"""What the tests of the monitor share."""

from __future__ import annotations

import pytest

from support.ports import free_port
from tidings.contrib.monitor import health


@pytest.fixture
def port() -> int:
    """A port for the monitor."""
    return free_port()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop of a busy machine may answer late."""
    monkeypatch.setattr(health, "GRACE", 10.0)
