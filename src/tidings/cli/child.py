"""The child's side of a supervised run: it reports to its supervisor and ends with it.

Supervisor and child share a socket, the lifeline. The child writes a line with the drain timeout of
its app to it. When the app runs, it writes a line with an overview of the app, and a line that says
so. If systemd watches the service, the event loop of the child keeps writing lines, as long as
nothing blocks it. The supervisor writes a line to switch the level of the log. To stop the child,
it writes "stop" and closes its end. If the supervisor dies, even by kill -9, its end closes without
"stop". The child drains in both cases. The supervisor does not use a signal to stop its children: a
service manager that stops a whole process group signals the children too, and a second signal would
make the app exit at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Mapping

import msgspec

from tidings.app import App
from tidings.internals import launch_of
from tidings.log import logger
from tidings.process.runner import MainRun
from tidings.transport.sources import from_flags

from . import logs
from .dev import use_dev_server
from .foreground import foreground
from .loading import load_app
from .log_level import switch
from .monitoring import VARIABLES, observe_child
from .overview import overview_of

# Environment variables of a child. URLs and flags may contain passwords, so they are not passed as
# arguments, which every user of the machine can read.
FLAGS = "TIDINGS_FLAGS"
LIFELINE = "TIDINGS_LIFELINE"
SERVERS = "TIDINGS_SERVERS"
WORKER = "TIDINGS_WORKER"
DEV = "TIDINGS_DEV"  # set if the servers are the one of --dev
BEAT = "TIDINGS_BEAT"  # seconds between two keep-alives; not set if nobody watches

LOADED = b"loaded"  # followed by the drain timeout, in seconds
OVERVIEW = b"overview"  # followed by the overview of the app, as JSON
MONITOR = b"monitor"  # followed by the address of the app's own monitor
RUNNING = b"running"
ALIVE = b"alive"
STOP = b"stop"
LEVEL_DEBUG = b"level debug"
LEVEL_CONFIGURED = b"level configured"
# Exit code of a child whose app called `disconnect()`. The supervisor does not start it again.
ENDED = 100


def take_orders() -> dict[str, str]:
    """Return the variables that a supervisor has set; empty without a supervisor.

    They are removed from the environment, so that the app's own subprocesses do not take
    themselves for children of the supervisor.
    """
    names = (BEAT, DEV, FLAGS, LIFELINE, SERVERS, WORKER, *VARIABLES)
    return {name: os.environ.pop(name) for name in names if name in os.environ}


def run_child(target: str, orders: Mapping[str, str], drain_timeout: float | None) -> int:
    """Run an app under a supervisor and return the exit code."""
    child = Child(socket.socket(fileno=int(orders[LIFELINE])), float(orders.get(BEAT, 0)))
    app = load_app(target)
    logs.identify(app.service_name, app.version, app.instance_id)
    if drain_timeout is not None:
        app.drain_timeout = drain_timeout
    launch_of(app).use_flags(from_flags(json.loads(orders.get(FLAGS, "{}"))))
    if servers := orders.get(SERVERS):
        if DEV in orders:
            use_dev_server(app, servers)
        else:
            app.set_servers(servers)
    if (address := observe_child(app, orders)) is not None:
        child.say(b"%b %b\n" % (MONITOR, str(address).encode()))
    return child.run(app)


class Child:
    """The process of a supervised app.

    Args:
        lifeline: socket to the supervisor.
        beat: seconds between two keep-alives; 0 for none.
    """

    def __init__(self, lifeline: socket.socket, beat: float = 0.0) -> None:
        lifeline.set_inheritable(False)
        self._lifeline = lifeline
        self._beat = beat
        self._run: MainRun | None = None  # set when the app is loaded
        threading.Thread(target=self._watch, name="tidings lifeline", daemon=True).start()

    def run(self, app: App) -> int:
        """Run the app until it ends and return the exit code."""
        self.say_loaded(app)

        def say_running() -> None:
            self.say_loaded(app)  # the start may have changed the drain timeout
            self.say(b"%b %b\n" % (OVERVIEW, msgspec.json.encode(overview_of(app))))
            self.say(b"%b\n" % RUNNING)
            if self._beat:
                self._keep_alive(asyncio.get_running_loop())

        self._run = foreground(app, say_running)
        self._run.run()
        return 0 if self._run.was_stopped else ENDED

    def say_loaded(self, app: App) -> None:
        """Report the drain timeout: the supervisor waits that long before it kills the child."""
        self.say(b"%b %g\n" % (LOADED, app.drain_timeout))

    def say(self, line: bytes) -> None:
        """Write a line to the supervisor."""
        with contextlib.suppress(OSError):  # the supervisor has died; _watch notices it too
            self._lifeline.sendall(line)

    def _keep_alive(self, loop: asyncio.AbstractEventLoop) -> None:
        self.say(b"%b\n" % ALIVE)
        loop.call_later(self._beat, self._keep_alive, loop)

    def _watch(self) -> None:
        said, is_stopped = b"", False
        with contextlib.suppress(OSError):
            while word := self._lifeline.recv(64):
                *lines, said = (said + word).split(b"\n")
                for line in lines:
                    if line == STOP:
                        is_stopped = True
                    elif line in (LEVEL_DEBUG, LEVEL_CONFIGURED):
                        switch.set(line == LEVEL_DEBUG)
        why = "stop" if is_stopped else "the supervisor is gone"
        if self._run is None:
            logger.info("%s", why)
            os.kill(os.getpid(), signal.SIGTERM)  # interrupts an import
        else:
            self._run.stop(why)
