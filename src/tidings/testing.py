"""Tests of an app against a real nats-server: pytest fixtures and the servers themselves."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .server import NATSCluster, NATSServer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NATSCluster", "NATSServer"]

with contextlib.suppress(ImportError):
    import pytest

    @pytest.fixture(scope="session")
    def nats_server() -> Iterator[NATSServer]:
        """A nats-server with JetStream for the whole test session."""
        with NATSServer(jetstream=True) as server:
            yield server
