"""`tidings exporter`: serves the metrics of all services on a NATS system over HTTP."""

from __future__ import annotations


def exporter() -> None:
    """Serve the metrics of all services."""
