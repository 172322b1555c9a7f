"""The child's side of a supervised run: it reports to its supervisor and does not outlive it.

Supervisor and child share a socket, the lifeline. The child writes a line on it when it runs. The
supervisor says "stop" and closes its end; where it dies, even by kill -9, the end closes without a
word. Either way the child drains. A stop is no signal, because a service manager that stops a whole
group signals the children too, and an app takes a second signal as the order to exit at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from tidings.app import App
from tidings.errors import NotStartedError
from tidings.runner import run_until_stopped

from .loading import load_app

logger = logging.getLogger("tidings")

# The environment of a child. Servers go there and not into its arguments, which every user of the
# machine can read, because their URLs may hold passwords.
LIFELINE = "TIDINGS_LIFELINE"
SERVERS = "TIDINGS_SERVERS"
WORKER = "TIDINGS_WORKER"

RUNNING = b"running\n"
STOP = b"stop\n"
# The exit code of an app that ended by itself, which is not to be started again.
ENDED = 100
# Seconds past the drain timeout after which a child that hangs is ended by force.
GRACE = 5.0


def take_orders() -> dict[str, str]:
    """What a supervisor has written into the environment; empty where there is none.

    It is taken out, so that the app's own subprocesses do not mistake themselves for children.
    """
    names = (LIFELINE, SERVERS, WORKER)
    return {name: os.environ.pop(name) for name in names if name in os.environ}


def run_child(target: str, orders: Mapping[str, str]) -> int:
    """Run an app under a supervisor. Returns the exit code."""
    child = Child(socket.socket(fileno=int(orders[LIFELINE])))
    app = load_app(target)
    if servers := orders.get(SERVERS):
        app.set_servers(servers)
    return child.run(app)


class Child:
    """The app of this process, as `run_until_stopped` takes it.

    Args:
        lifeline: the socket to the supervisor.
    """

    def __init__(self, lifeline: socket.socket) -> None:
        lifeline.set_inheritable(False)
        self._lifeline = lifeline
        self._app: App | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # there once the app runs
        self._told_to_end = False
        threading.Thread(target=self._watch, name="tidings lifeline", daemon=True).start()

    def run(self, app: App) -> int:
        """Run the app to its end. Returns the exit code."""
        self._app = app
        run_until_stopped(self, use_uvloop=app.use_uvloop)
        return 0 if self._told_to_end else ENDED

    async def __aenter__(self) -> Any:
        assert self._app is not None
        await self._app.__aenter__()
        self._loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # the supervisor is gone, which _watch sees too
            self._lifeline.sendall(RUNNING)

    async def wait_stopped(self) -> None:
        assert self._app is not None
        await self._app.wait_stopped()

    def begin_disconnect(self) -> asyncio.Task[None]:
        """Called by the runner for a signal, where the app's own end does not come through."""
        assert self._app is not None
        self._told_to_end = True
        return self._app.begin_disconnect()

    def _watch(self) -> None:
        said = b""
        with contextlib.suppress(OSError):
            while word := self._lifeline.recv(64):
                said += word
        logger.info("%s: draining", "stop" if said == STOP else "the supervisor is gone")
        self._end()
        time.sleep(GRACE + (self._app.drain_timeout if self._app is not None else 0))
        logger.error("the app hangs: exiting at once")
        logging.shutdown()
        os._exit(1)

    def _end(self) -> None:
        if self._loop is None:
            self._told_to_end = True
            os.kill(os.getpid(), signal.SIGTERM)  # it ends an import, or the connecting
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: the app has ended already
            self._loop.call_soon_threadsafe(self._begin_disconnect)

    def _begin_disconnect(self) -> None:
        with contextlib.suppress(NotStartedError):  # the app has ended already
            self.begin_disconnect()
