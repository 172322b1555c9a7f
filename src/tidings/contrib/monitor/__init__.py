"""The monitor of an app: its metrics and its health over HTTP.

`App(monitor=...)` and `tidings run --monitor` start it. Health needs nothing else; `/metrics` needs
the extra `metrics`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidings.addresses import ListenAddress
from tidings.errors import MissingExtraError
from tidings.lifecycle import Run

from .health_file import HealthFile
from .http import MonitorServer
from .run_source import RunSource

if TYPE_CHECKING:
    from .prometheus import AppCollector

__all__ = ["AppCollector", "Monitor", "serve"]


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


def serve(run: Run, address: ListenAddress) -> Monitor:
    """Start the monitor of a run.

    Raises:
        ConfigError: the address cannot be used.
    """
    return Monitor(run, address)


class _FileOfRun:
    """The health file of one run."""

    def __init__(self, run: Run, path: Path) -> None:
        self._source = RunSource(run)
        try:
            self._file = HealthFile(self._source, path)
        except BaseException:
            self._source.close()
            raise

    def close(self) -> None:
        self._file.close()
        self._source.close()

    def forget(self) -> None:
        self._file.forget()


def health_file(run: Run, path: Path) -> _FileOfRun:
    """Keep the health of a run in a file.

    Raises:
        ConfigError: the file cannot be written.
    """
    return _FileOfRun(run, path)


def __getattr__(name: str) -> Any:
    """Import `AppCollector` at its first use, because it needs prometheus-client.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """
    if name != "AppCollector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .prometheus import AppCollector
    except ImportError:
        raise MissingExtraError("metrics", "AppCollector") from None
    return AppCollector
