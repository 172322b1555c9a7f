"""Ports: free ports for embedded servers that are not given one."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

# Below the ports that the system chooses by itself for servers and outgoing connections. None of
# them takes the port of a server that is down for a moment.
FIRST, COUNT = 20_000, 12_000

# Processes begin far from each other. Within a process no port comes twice for a long time.
_numbers = itertools.count(os.getpid() * 7919)


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nothing listens on now, others each time.

    Raises:
        OSError: if there are not so many.
    """
    with contextlib.ExitStack() as stack:
        found = (
            FIRST + number % COUNT
            for number in itertools.islice(_numbers, COUNT)
            if _binds(stack.enter_context(socket.socket()), FIRST + number % COUNT)
        )
        ports = list(itertools.islice(found, count))
    if len(ports) < count:
        raise OSError(f"there are no {count} free ports from {FIRST} to {FIRST + COUNT - 1}")
    return ports


def _binds(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True
