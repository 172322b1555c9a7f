"""The child's side of a supervised run: it reports to its supervisor and does not outlive it.

Supervisor and child share a socket, the lifeline. The child writes a line on it with the drain
timeout of its app, and another one when the app runs. The supervisor says "stop" and closes its
end; where it dies, even by kill -9, the end closes without a word. Either way the child drains. A
stop is no signal, because a service manager that stops a whole group signals the children too, and
an app takes a later signal as the order to exit at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Mapping

from tidings.app import App
from tidings.lifecycle import Run
from tidings.log import logger
from tidings.process.runner import MainRun

from .loading import load_app

# The environment of a child. Servers go there and not into its arguments, which every user of the
# machine can read, because their URLs may hold passwords.
LIFELINE = "TIDINGS_LIFELINE"
SERVERS = "TIDINGS_SERVERS"
WORKER = "TIDINGS_WORKER"

LOADED = b"loaded"  # followed by the drain timeout, in seconds
RUNNING = b"running"
STOP = b"stop\n"
# The exit code of an app that ended by itself, which is not to be started again.
ENDED = 100


def take_orders() -> dict[str, str]:
    """What a supervisor has written into the environment; empty where there is none.

    It is taken out, so that the app's own subprocesses do not mistake themselves for children.
    """
    names = (LIFELINE, SERVERS, WORKER)
    return {name: os.environ.pop(name) for name in names if name in os.environ}


def run_child(target: str, orders: Mapping[str, str], drain_timeout: float | None) -> int:
    """Run an app under a supervisor. Returns the exit code."""
    child = Child(socket.socket(fileno=int(orders[LIFELINE])))
    app = load_app(target)
    if drain_timeout is not None:
        app.drain_timeout = drain_timeout
    if servers := orders.get(SERVERS):
        app.set_servers(servers)
    return child.run(app)


class Child:
    """The process of a supervised app.

    Args:
        lifeline: the socket to the supervisor.
    """

    def __init__(self, lifeline: socket.socket) -> None:
        lifeline.set_inheritable(False)
        self._lifeline = lifeline
        self._run: MainRun | None = None  # there once the app is loaded
        threading.Thread(target=self._watch, name="tidings lifeline", daemon=True).start()

    def run(self, app: App) -> int:
        """Run the app to its end. Returns the exit code."""
        self.say_loaded(app)

        async def start() -> Run:
            run = await app._start()
            self.say_loaded(app)  # the start may have changed the drain timeout
            self.say(b"%b\n" % RUNNING)
            return run

        self._run = MainRun(
            start, drain_timeout=lambda: app.drain_timeout, use_uvloop=app.use_uvloop
        )
        self._run.run()
        return 0 if self._run.was_stopped else ENDED

    def say_loaded(self, app: App) -> None:
        """Report the drain timeout, which decides how long the supervisor waits for the end."""
        self.say(b"%b %g\n" % (LOADED, app.drain_timeout))

    def say(self, line: bytes) -> None:
        """Report to the supervisor."""
        with contextlib.suppress(OSError):  # it is gone, which _watch sees too
            self._lifeline.sendall(line)

    def _watch(self) -> None:
        said = b""
        with contextlib.suppress(OSError):
            while word := self._lifeline.recv(64):
                said += word
        why = "stop" if said == STOP else "the supervisor is gone"
        if self._run is None:
            logger.info("%s", why)
            os.kill(os.getpid(), signal.SIGTERM)  # it ends an import
        else:
            self._run.stop(why)
