"""The embedded nats-server, for development and tests."""

from tidings.server.nats_server import NATSCluster, NATSServer

__all__ = ["NATSCluster", "NATSServer"]
