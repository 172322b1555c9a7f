"""What the tests of the monitor share."""

from __future__ import annotations

import pytest

from support.ports import free_port


@pytest.fixture
def port() -> int:
    """A port for the monitor."""
    return free_port()
