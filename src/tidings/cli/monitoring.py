"""The options `--monitor` and `--health-file` of `tidings run`, for one process and for several."""

from __future__ import annotations

import functools
import socket
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import msgspec

from tidings.addresses import ListenAddress, listen_address
from tidings.app import App
from tidings.contrib import monitor
from tidings.contrib.monitor.processes import Processes, ProcessesSource
from tidings.internals import launch_of

# Environment variables of a child: the descriptor of its end of the pipe, and whether its
# supervisor serves metrics or writes a health file.
PIPE = "TIDINGS_PIPE"
METRICS = "TIDINGS_METRICS"
HEALTH = "TIDINGS_HEALTH"
VARIABLES = (PIPE, METRICS, HEALTH)


class Monitoring(msgspec.Struct, frozen=True, kw_only=True):
    """What the two options say.

    Attributes:
        address: where to serve metrics and health; None for what the app says.
        path: the health file; None for none.
    """

    address: ListenAddress | None = None
    path: Path | None = None

    @classmethod
    def of(cls, address: str | None, path: Path | None) -> Monitoring:
        """Check the options.

        Raises:
            ConfigError: the address cannot be used.
        """
        where = None if address is None else listen_address("--monitor", address)
        return cls(address=where, path=path)

    def apply(self, app: App) -> None:
        """Let an app in this process do what the options say."""
        if self.address is not None:
            launch_of(app).monitor = self.address
        if self.path is not None:
            launch_of(app).observers.append(functools.partial(monitor.health_file, path=self.path))

    def tell(self, environment: MutableMapping[str, str], pipe: socket.socket) -> None:
        """Tell a child what its supervisor will ask for."""
        environment[PIPE] = str(pipe.fileno())
        if self.address is not None:
            environment[METRICS] = "1"
        if self.path is not None:
            environment[HEALTH] = "1"


NOTHING = Monitoring()


def observe_child(app: App, orders: Mapping[str, str]) -> ListenAddress | None:
    """Let an app in a supervised process answer its supervisor, if that will ask.

    Returns:
        The address of the app itself, where the supervisor serves all processes: they could not
        share it.
    """
    from tidings.contrib.monitor.pipe_server import PipeServer

    pipe = socket.socket(fileno=int(orders[PIPE]))
    pipe.set_inheritable(False)
    launch = launch_of(app)
    address, launch.monitor = launch.monitor, None
    launch.is_measured = METRICS in orders or address is not None
    if launch.is_measured or HEALTH in orders:
        launch.observers.append(functools.partial(PipeServer, end=pipe))
    else:
        pipe.close()
    return address


class ProcessesMonitor:
    """The monitor of the processes of a supervisor.

    Args:
        processes: the processes.
        options: the options.
    """

    def __init__(self, processes: Processes, options: Monitoring) -> None:
        self._source = ProcessesSource(processes)
        self._address = options.address
        self._path = options.path
        self._parts: list[Any] = []

    def open(self) -> None:
        """Start what the options say.

        Raises:
            ConfigError: the address or the file cannot be used.
        """
        if self._path is not None:
            from tidings.contrib.monitor.health_file import HealthFile

            self._parts.append(HealthFile(self._source, self._path))
        if self._address is not None:
            self._serve(self._address)

    def use(self, address: str) -> None:
        """Serve on the address that the app itself names, unless an option names one.

        Raises:
            ConfigError: the address cannot be used.
        """
        if self._address is None:
            self._address = listen_address("monitor", address)
            self._serve(self._address)

    def _serve(self, address: ListenAddress) -> None:
        from tidings.contrib.monitor.http import MonitorServer

        self._parts.append(MonitorServer(self._source, address))

    def close(self) -> None:
        """Stop: the processes have ended."""
        for part in self._parts:
            part.close()
        self._parts.clear()
