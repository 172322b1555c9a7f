"""Ports of this machine."""

from tidings.server.ports import free_ports


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on now, another one each time."""
    return free_ports(1)[0]
