"""The connection to NATS, one for each process of the web server."""

import atexit
from contextlib import ExitStack
from threading import Lock

from tidings import App

nats = App(service_name="shop", connect_timeout=2)

connecting = Lock()
running = ExitStack()
atexit.register(running.close)  # drains when the worker process ends


def connected() -> App:
    """Connect at the first request of this process, so that management commands need no server."""
    with connecting:
        if not nats.is_running:
            running.enter_context(nats)
    return nats
