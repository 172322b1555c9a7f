"""Ports of this machine."""

import itertools
import os
import socket

# Below the ports that the system chooses for servers and connections that ask for any, so that none
# of them gets a port between the moment in which a test chooses it and the one in which it listens.
_FIRST, _COUNT = 20_000, 12_000
_numbers = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on now, another one each time."""
    for number in itertools.islice(_numbers, _COUNT):
        port = _FIRST + number % _COUNT
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port is in use")
