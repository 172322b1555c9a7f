"""What the whole suite shares. The fixture `nats_server` comes from tidings' own pytest plugin."""

from __future__ import annotations

import itertools

import pytest

_numbers = itertools.count(1)


@pytest.fixture
def subject() -> str:
    """A subject that no other test uses."""
    return f"test.{next(_numbers)}"
