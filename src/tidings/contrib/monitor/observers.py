"""The observers of a run: its monitor over HTTP, and its health file."""

from __future__ import annotations

from pathlib import Path

from tidings.addresses import ListenAddress
from tidings.lifecycle import Run

from .health_file import HealthFile
from .http import MonitorServer
from .run_source import RunSource


class Monitor:
    """The monitor of one run.

    Args:
        run: the run.
        address: where to listen.

    Attributes:
        address: where it listens.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(self, run: Run, address: ListenAddress) -> None:
        self._source = RunSource(run)
        try:
            self._server = MonitorServer(self._source, address)
        except BaseException:
            self._source.close()
            raise
        self.address = self._server.address

    def close(self) -> None:
        """Stop: the run has ended."""
        self._server.close()
        self._source.close()

    def forget(self) -> None:
        """Leave the port to the parent process: this is a forked child."""
        self._server.forget()


class RunHealthFile:
    """The health file of one run.

    Args:
        run: the run.
        path: the file.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, run: Run, path: Path) -> None:
        self._source = RunSource(run)
        try:
            self._file = HealthFile(self._source, path)
        except BaseException:
            self._source.close()
            raise

    def close(self) -> None:
        """Remove the file: the run has ended."""
        self._file.close()
        self._source.close()

    def forget(self) -> None:
        """Leave the file to the parent process: this is a forked child."""
        self._file.forget()
